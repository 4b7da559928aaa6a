"""The experiments a reader of the paper runs first, on scenes with known contents; each is one command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from latentbank.cli.evaluate import (
    BankLayersOption,
    CalibrationOption,
    CoverageOption,
    LensOption,
    ModelsOption,
    OutputOption,
    RandomOption,
    ScenesOption,
    make_bench,
)
from latentbank.cli.images import VisualLayersOption
from latentbank.cli.options import (
    BankOption,
    Common,
    DeviceOption,
    DtypeOption,
    JsonOption,
    LayersOption,
    MetricOption,
    RevisionOption,
    TrustOption,
    bank_layers_of,
    corpus_of,
    known_bank,
    numbers,
    opened_bank,
    writer_settings,
)
from latentbank.cli.output.scores import show_alignment, show_cards, show_compared, write_scores
from latentbank.errors import CorpusError, LatentBankError
from latentbank.query.lenses.base import LensOptions
from latentbank.query.lenses.registry import lens_names, lenses_of

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.models.language.model import LanguageModel

experiment_app = typer.Typer(
    no_args_is_help=True,
    help="The experiments a reader of the paper runs first, on scenes with known contents.",
)


@experiment_app.command(
    "alignment", epilog="Example: latentbank experiment alignment --bank demo -o alignment"
)
def experiment_alignment(
    bank: BankOption = None,
    model: ModelsOption = "demo",
    visual_layers: VisualLayersOption = None,
    bank_layers: BankLayersOption = "all",
    scenes: ScenesOption = 300,
    calibration: CalibrationOption = 100,
    coverage: CoverageOption = 0.5,
    random: RandomOption = True,
    output: OutputOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Which bank layer names the most at each visual layer, and where similarity peaks: the mid-layer leap."""
    from latentbank.progress import shown
    from latentbank.query.evaluation.experiments.alignment import align, peaks
    from latentbank.query.evaluation.figures import draw_bank_layers, draw_first
    from latentbank.query.lenses.latent import LatentLens

    with opened_bank(bank) as opened:
        bench = make_bench(
            model, visual_layers, scenes, calibration, random, device, dtype, revision, trust_remote_code
        )
        with shown("aligning", "scenes") as progress:
            found = align(
                bench.model,
                LatentLens(opened, bank_layers_of(bank_layers)),
                bench.scenes,
                bench.layers,
                random=bench.random,
                calibration=bench.calibration,
                coverage=coverage,
                progress=progress,
            )

    def draw(folder: Path) -> None:
        draw_bank_layers(found, folder / "bank-layers.png")
        draw_first(found, folder / "first.png")

    data = found.to_dict()
    data["peaks"] = [asdict(peak) for peak in peaks(found)]
    write_scores(data, output, "alignment", draw)
    if as_json:
        print(json.dumps(data, ensure_ascii=False, indent=1))
    else:
        show_alignment(found)


@experiment_app.command(
    "metric", epilog="Example: latentbank experiment metric --bank plain --centred centred -o metric"
)
def experiment_metric(
    centred: Annotated[str, typer.Option("--centred", help="A centred bank of the same corpora.")],
    bank: BankOption = None,
    model: ModelsOption = "demo",
    visual_layers: VisualLayersOption = None,
    bank_layers: BankLayersOption = "all",
    lens: LensOption = "logit,embedding",
    scenes: ScenesOption = 300,
    calibration: CalibrationOption = 100,
    coverage: CoverageOption = 0.5,
    random: RandomOption = True,
    output: OutputOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Plain cosine against centring: by layer, by lens and by corpus. --lens names those beside LatentLens."""
    from latentbank.progress import shown
    from latentbank.query.evaluation.experiments.compare import compare_metrics

    names = [name for name in lens_names(lens) if name != "latent"]
    with ExitStack() as stack:
        plain = stack.enter_context(opened_bank(bank))
        other = stack.enter_context(opened_bank(centred))
        bench = make_bench(
            model, visual_layers, scenes, calibration, random, device, dtype, revision, trust_remote_code
        )
        others = lenses_of(names, LensOptions(bench.model))
        with shown("evaluating", "scenes") as progress:
            compared = compare_metrics(
                bench.setup(progress, coverage),
                bench.model,
                plain,
                other,
                others,
                bank_layers_of(bank_layers),
                bench.random,
            )
    show_compared(compared, output, "metric", as_json=as_json)


@experiment_app.command(
    "corpus-swap",
    epilog="Example: latentbank experiment corpus-swap descriptions.txt concepts.txt news.txt --bank swap -o swap",
)
def experiment_corpus_swap(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="A file or hub dataset for each corpus, stored with as many contexts each; none: those of the bank.",
            show_default=False,
        ),
    ] = None,
    bank: BankOption = None,
    model: ModelsOption = "demo",
    layers: LayersOption = None,
    contexts: Annotated[int | None, typer.Option(help="Contexts of each corpus at most.")] = None,
    metric: MetricOption = None,
    visual_layers: VisualLayersOption = None,
    bank_layers: BankLayersOption = "all",
    scenes: ScenesOption = 300,
    calibration: CalibrationOption = 100,
    coverage: CoverageOption = 0.5,
    random: RandomOption = True,
    output: OutputOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """How much a corpus matters: corpora of one size, each read by itself. --layers and --metric are a new bank's."""
    from latentbank.ingest.banks import create_bank
    from latentbank.ingest.defaults import default_layers
    from latentbank.progress import shown
    from latentbank.query.evaluation.experiments.compare import compare_corpora

    settings = writer_settings() if sources else Common.settings()
    known = known_bank(bank, None, settings) if sources else None
    stored = numbers(layers) or (list(known.layers) if known else None)
    with ExitStack() as stack:
        if not sources:
            opened = stack.enter_context(opened_bank(bank))
            names = list(opened.shown_corpora)
        bench = make_bench(
            model,
            visual_layers,
            scenes,
            calibration,
            random,
            device,
            dtype,
            revision,
            trust_remote_code,
            # Ingestion goes through the VLM's own LLM, as deep as the bank.
            bank_layers=(stored or default_layers) if sources else None,
        )
        if sources:
            llm = bench.model.language
            opened = stack.enter_context(
                create_bank(
                    bank or settings.bank or "corpus-swap",
                    llm,
                    stored,
                    metric=cast("Any", metric),
                    settings=settings,
                )
            )
            names = _store_equal(sources, opened, llm, contexts)
        with shown("evaluating", "scenes") as progress:
            compared = compare_corpora(
                bench.setup(progress, coverage),
                bench.model,
                opened,
                bank_layers_of(bank_layers),
                bench.random,
                names,
            )
        sizes = {name: opened.corpora[name].contexts for name in names}
    show_compared(compared, output, "corpus-swap", as_json=as_json, more={"contexts": sizes})


def _store_equal(sources: Sequence[str], bank: Bank, llm: LanguageModel, contexts: int | None) -> list[str]:
    """Ingest corpora with as many contexts each, under the names of their files, which are given back."""
    from latentbank.ingest import job
    from latentbank.ingest.defaults import plan_folder
    from latentbank.ingest.equal_plans import equal_plans
    from latentbank.progress import shown

    corpora = {Path(source).name.split(".")[0]: source for source in sources}
    if len(corpora) < len(sources):
        raise LatentBankError("Two corpora have the same name; rename their files.")
    opened = {
        name: corpus_of([source], name, None, None, None, None, None) for name, source in corpora.items()
    }
    # A folder of its own, as `ingest run` keeps the plan of the whole corpus under the corpus's name.
    folder = plan_folder(Common.settings(), bank.name, "swap")
    with shown("planning", "sentences") as progress:
        plans = equal_plans(opened, llm, folder, contexts=contexts, progress=progress)
    for name, plan in plans.items():
        entry = bank.corpora.get(name)
        if entry is not None and (entry.content_hash, entry.plan) != (
            plan.content_hash,
            asdict(plan.settings),
        ):
            raise CorpusError(
                f"The bank '{bank.name}' holds other sentences of '{name}' than this comparison takes; name a new "
                "bank with --bank."
            )
    for name, plan in plans.items():
        with shown(f"ingesting {name}", "contexts") as progress:
            job.store_plan(bank, plan, llm, progress)
    return list(plans)


@experiment_app.command(
    "projector",
    epilog="Example: latentbank experiment projector linear.safetensors mlp.safetensors mlp3.safetensors --bank demo",
)
def experiment_projector(
    projectors: Annotated[
        list[str], typer.Argument(help="Projector files, trained on the same data for the same steps.")
    ],
    bank: BankOption = None,
    visual_layers: VisualLayersOption = None,
    bank_layers: BankLayersOption = "all",
    lens: LensOption = "logit,embedding",
    scenes: ScenesOption = 300,
    calibration: CalibrationOption = 100,
    coverage: CoverageOption = 0.5,
    random: RandomOption = True,
    output: OutputOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Whether the projector matters: losses, shares, and whether the mid-layer leap survives."""
    from latentbank.progress import shown
    from latentbank.query.evaluation.experiments.compare import compare_projectors

    names = [name for name in lens_names(lens) if name != "latent"]
    with opened_bank(bank) as opened:
        labels = [_projector_label(Path(name)) for name in projectors]
        if len(set(labels)) < max(2, len(labels)):
            raise LatentBankError(
                "Name at least two projector files, with different names or in different folders."
            )
        benches = {
            label: make_bench(name, visual_layers, scenes, calibration, random, device, dtype, None, False)
            for label, name in zip(labels, projectors, strict=True)
        }
        first = next(iter(benches.values()))
        others = lenses_of(names, LensOptions(first.model))
        with shown("evaluating", "scenes") as progress:
            compared = compare_projectors(
                first.setup(progress, coverage),
                {label: (bench.model, bench.random) for label, bench in benches.items()},
                opened,
                others,
                bank_layers_of(bank_layers),
            )
    cards = {label: dict(getattr(bench.model, "card", {})) for label, bench in benches.items()}
    if not as_json:
        show_cards(cards)
    show_compared(compared, output, "projector", as_json=as_json, more={"cards": cards})


def _projector_label(file: Path) -> str:
    """Give what a projector is called in tables: its file's name, or its folder's where all are named alike."""
    return file.resolve().parent.name if file.stem == "projector" else file.stem
