"""`latentbank experiment`: the first experiments for a reader of the paper, on scenes with known contents."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from latentbank.cli.grouping import command
from latentbank.cli.options.banks import (
    MetricOption,
    ModelBankOptions,
    NewBankOptions,
    opened_bank,
)
from latentbank.cli.options.common import (
    BankLayersOption,
    GlobalOptions,
    LayerChoice,
    LensOption,
    bank_layers_of,
    layers_for,
)
from latentbank.cli.options.corpora import CorpusOptions
from latentbank.cli.options.correction import mode_of
from latentbank.cli.options.models import DeviceOptions, LoadingOptions, SceneModelOptions
from latentbank.cli.options.scenes import (
    CorrectScenesOption,
    ResultOptions,
    SceneOptions,
    ScoringOptions,
)
from latentbank.errors import CorpusError, LatentBankError
from latentbank.ingest.defaults import default_layers, plan_folder
from latentbank.query.lenses.base import LensOptions
from latentbank.query.lenses.registry import lens_names, lenses_of, needs_whole, searches_bank

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.bank.settings import Settings
    from latentbank.models.language.model import LanguageModel

app = typer.Typer(
    no_args_is_help=True,
    help="The first experiments for a reader of the paper, on scenes with known contents.",
)


@command(
    app,
    "alignment",
    example="experiment alignment --bank demo -o alignment",
    first="bank model visual_layers bank_layers correct",
)
def experiment_alignment(
    ctx: typer.Context,
    *,
    scoring: ScoringOptions,
    correct: CorrectScenesOption = "none",
) -> None:
    """Find the bank layer that names the most at each visual layer, and where similarity peaks: the mid-layer leap."""
    from latentbank.cli.output.scores import show_alignment
    from latentbank.progress import shown
    from latentbank.query.evaluation.experiments.alignment import peaks
    from latentbank.query.evaluation.figures import draw_bank_layers, draw_first
    from latentbank.query.lenses.latent import LatentLens

    settings, correction = GlobalOptions.of(ctx).settings(), mode_of(correct)
    with scoring.opened(settings) as opened:
        inputs = scoring.loaded(settings)
        with shown("aligning", "scenes") as progress:
            lens = LatentLens(opened, scoring.searched())
            setup = inputs.setup(progress, correction)
            evaluation = setup.run(inputs.model, [lens], inputs.random, alone=inputs.layers)

    def draw(folder: Path) -> None:
        draw_bank_layers(evaluation, folder / "bank-layers.png")
        draw_first(evaluation, folder / "first.png")

    data = evaluation.to_dict()
    data["peaks"] = [asdict(peak) for peak in peaks(evaluation)]
    scoring.give(data, "alignment", draw, lambda: show_alignment(evaluation))


@command(
    app,
    "metric",
    example="experiment metric --bank plain --centred centred -o metric",
    first="centred bank model visual_layers bank_layers lens",
)
def experiment_metric(
    ctx: typer.Context,
    *,
    centred: Annotated[str, typer.Option("--centred", help="A centred bank of the same corpora.")],
    scoring: ScoringOptions,
    lens: LensOption = "logit,embedding",
) -> None:
    """Compare plain cosine with centring by layer, lens and corpus. --lens names the lenses beside LatentLens."""
    from latentbank.cli.output.scores import show_compared
    from latentbank.progress import shown
    from latentbank.query.evaluation.experiments.compare import compare_metrics

    settings = GlobalOptions.of(ctx).settings()
    names = [name for name in lens_names(lens) if not searches_bank(name)]
    with (
        scoring.opened(settings) as plain,
        opened_bank(centred, settings, allow_other_model=scoring.allow_other_model) as other,
    ):
        inputs = scoring.loaded(settings, whole=needs_whole(names))
        others = lenses_of(names, LensOptions(inputs.model, data_dir=settings.data_dir))
        layers = scoring.searched()
        with shown("evaluating", "scenes") as progress:
            compared = compare_metrics(
                inputs.setup(progress), inputs.model, plain, other, others, layers, inputs.random
            )
    show_compared(compared, scoring, "metric")


@command(
    app,
    "correction",
    example="experiment correction --bank demo -o correction",
    first="bank model visual_layers bank_layers lens correct",
)
def experiment_correction(
    ctx: typer.Context,
    *,
    scoring: ScoringOptions,
    lens: LensOption = "latent,logit,embedding",
    correct: Annotated[
        str, typer.Option("--correct", help="Corrections that are compared with none: hubs, mean, both.")
    ] = "hubs,mean,both",
) -> None:
    """Compare lenses without and with each correction, by layer, and whether the mid-layer leap remains."""
    from latentbank.cli.output.scores import show_compared
    from latentbank.progress import shown
    from latentbank.query.evaluation.experiments.compare import compare_corrections

    settings = GlobalOptions.of(ctx).settings()
    names, modes = lens_names(lens), [mode for part in correct.split(",") if (mode := mode_of(part.strip()))]
    with scoring.opened(settings) as opened:
        inputs = scoring.loaded(settings)
        lenses = lenses_of(names, LensOptions(inputs.model, opened, scoring.searched()))
        with shown("evaluating", "scenes") as progress:
            compared = compare_corrections(inputs.setup(progress), inputs.model, lenses, inputs.random, modes)
    show_compared(compared, scoring, "correction")


@command(
    app,
    "corpus-swap",
    example="experiment corpus-swap descriptions.txt concepts.txt news.txt --bank swap -o swap",
    first="sources bank model layers contexts metric visual_layers bank_layers correct",
)
def experiment_corpus_swap(
    ctx: typer.Context,
    *,
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="A file or hub dataset for each corpus; all are stored with the same number of contexts. By default "
            "the bank's own corpora are read.",
            show_default=False,
        ),
    ] = None,
    bank: NewBankOptions,
    contexts: Annotated[
        int | None, typer.Option(min=1, help="Store at most this many contexts of each corpus.")
    ] = None,
    metric: MetricOption = None,
    bank_layers: BankLayersOption = "all",
    correct: CorrectScenesOption = "none",
    scenes: SceneOptions,
    model: SceneModelOptions,
    results: ResultOptions,
) -> None:
    """Compare corpora of one size, each read by itself. --layers and --metric are for a new bank."""
    from latentbank.cli.output.scores import show_compared
    from latentbank.progress import shown
    from latentbank.query.evaluation.experiments.compare import compare_corpora

    options, correction = GlobalOptions.of(ctx), mode_of(correct)
    settings = options.writer_settings() if sources else options.settings()
    with ExitStack() as stack:
        if sources:
            layers = bank.stored_layers(bank.known(settings, None))
            # The corpora are encoded by the VLM's own LLM, which must be as deep as the bank.
            inputs = scenes.inputs(model.model, model, settings, bank_layers=layers or default_layers)
            llm = inputs.model.language
            opened = stack.enter_context(_swap_bank(bank, llm, layers, metric, settings))
            names = _store_equal(sources, opened, llm, contexts, settings)
        else:
            opened = stack.enter_context(bank.opened(settings))
            names = list(opened.shown_corpora)
            inputs = scenes.inputs(model.model, model, settings)
        with shown("evaluating", "scenes") as progress:
            compared = compare_corpora(
                inputs.setup(progress, correction),
                inputs.model,
                opened,
                bank_layers_of(bank_layers),
                inputs.random,
                names,
            )
        sizes = {name: opened.corpora[name].contexts for name in names}
    show_compared(compared, results, "corpus-swap", more={"contexts": sizes})


@command(
    app,
    "projector",
    example="experiment projector linear.safetensors mlp.safetensors mlp3.safetensors --bank demo",
    first="projectors bank visual_layers bank_layers lens correct",
)
def experiment_projector(
    ctx: typer.Context,
    *,
    projectors: Annotated[
        list[str], typer.Argument(help="Projector files, trained on the same data for the same steps.")
    ],
    bank: ModelBankOptions,
    bank_layers: BankLayersOption = "all",
    lens: LensOption = "logit,embedding",
    correct: CorrectScenesOption = "none",
    scenes: SceneOptions,
    devices: DeviceOptions,
    results: ResultOptions,
) -> None:
    """Compare projectors: their losses, their shares, and whether the mid-layer leap survives."""
    from latentbank.cli.output.scores import show_cards, show_compared
    from latentbank.progress import shown
    from latentbank.query.evaluation.experiments.compare import compare_projectors

    settings, correction = GlobalOptions.of(ctx).settings(), mode_of(correct)
    names = [name for name in lens_names(lens) if not searches_bank(name)]
    loading = LoadingOptions(device=devices.device, dtype=devices.dtype)
    with bank.opened(settings) as opened:
        labels = [_projector_label(Path(name)) for name in projectors]
        if len(set(labels)) < max(2, len(labels)):
            raise LatentBankError(
                "Name at least two projector files, with different names or in different folders."
            )
        loaded = {
            label: scenes.inputs(name, loading, settings, whole=needs_whole(names))
            for label, name in zip(labels, projectors, strict=True)
        }
        first = next(iter(loaded.values()))
        others = lenses_of(names, LensOptions(first.model, data_dir=settings.data_dir))
        with shown("evaluating", "scenes") as progress:
            compared = compare_projectors(
                first.setup(progress, correction),
                {label: (inputs.model, inputs.random) for label, inputs in loaded.items()},
                opened,
                others,
                bank_layers_of(bank_layers),
            )
    cards = {label: dict(getattr(inputs.model, "card", {})) for label, inputs in loaded.items()}
    if not results.as_json:
        show_cards(cards)
    show_compared(compared, results, "projector", more={"cards": cards})


def _swap_bank(
    bank: NewBankOptions,
    llm: LanguageModel,
    layers: LayerChoice,
    metric: str | None,
    settings: Settings,
) -> Bank:
    """Open the bank of a corpus swap, creating it if it is new."""
    from latentbank.ingest.banks import create_bank

    name = bank.bank or settings.bank or "corpus-swap"
    metric_given, allowed = cast("Any", metric), bank.allow_other_model
    return create_bank(
        name,
        llm,
        layers_for(layers, llm.num_layers),
        metric=metric_given,
        allow_other_model=allowed,
        settings=settings,
    )


def _store_equal(
    sources: Sequence[str], bank: Bank, llm: LanguageModel, contexts: int | None, settings: Settings
) -> list[str]:
    """Store corpora with equally many contexts, named after their files; return the names.

    Raises:
        LatentBankError: two files have the same name.
        CorpusError: the bank holds other sentences under one of the names.
    """
    from latentbank.ingest import job
    from latentbank.ingest.equal_plans import equal_plans
    from latentbank.progress import shown

    corpora = {Path(source).name.split(".")[0]: source for source in sources}
    if len(corpora) < len(sources):
        raise LatentBankError("Two corpora have the same name; rename their files.")
    opened = {name: CorpusOptions(sources=[source], name=name).open() for name, source in corpora.items()}
    # A folder of its own, as `ingest run` keeps the plan of the whole corpus under the corpus's name.
    folder = plan_folder(settings, bank.name, "swap")
    with shown("planning", "sentences") as progress:
        plans = equal_plans(opened, llm, folder, contexts=contexts, progress=progress)
    for name, plan in plans.items():
        entry = bank.corpora.get(name)
        planned = (plan.content_hash, plan.settings.to_dict())
        if entry is not None and (entry.content_hash, entry.plan) != planned:
            raise CorpusError(
                f"The bank '{bank.name}' holds other sentences of '{name}' than this comparison takes; name a new "
                "bank with --bank."
            )
    for name, plan in plans.items():
        with shown(f"ingesting {name}", "contexts") as progress:
            job.store_plan(bank, plan, llm, progress)
    return list(plans)


def _projector_label(file: Path) -> str:
    """Return what tables call a projector: its file's name, or its folder's if the file is "projector"."""
    return file.resolve().parent.name if file.stem == "projector" else file.stem
