"""Commands that score lenses on scenes with known contents: `evaluate scenes`, and the experiments."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from latentbank_errors import LatentBankError
from latentbank_images import VisualLayersOption, load_vlm
from latentbank_options import (
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
    default_layers,
    known_bank,
    numbers,
    only_bank,
    plan_folder,
)
from latentbank_scores import show_alignment, show_compared, show_evaluation, write_scores

if TYPE_CHECKING:
    from bank.bank import Bank
    from bank.where import Filter
    from latentbank_progress import Progress
    from models.language import LanguageModel
    from models.scenes import Scene
    from models.vision_language import VisualModel
    from query.experiments.compare import Setup
    from query.lenses import Lens

evaluate_app = typer.Typer(no_args_is_help=True, help="Score lenses where the truth is known.")
experiment_app = typer.Typer(
    no_args_is_help=True,
    help="The experiments a reader of the paper runs first, on scenes with known contents.",
)

ModelsOption = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="Hub id or folder of a VLM, a projector's .safetensors file, or demo."
    ),
]
BankLayersOption = Annotated[str, typer.Option(help="mid, all, or numbers such as 8,12.")]
LensOption = Annotated[str, typer.Option("--lens", help="latent, logit, embedding, or several with commas.")]
WhereOption = Annotated[
    list[str] | None, typer.Option(help="Filter of the contexts, such as corpus=concepts; all must hold.")
]
ScenesOption = Annotated[int, typer.Option(help="Held-out scenes, at most 300.")]
CalibrationOption = Annotated[
    int, typer.Option(help="Other scenes whose visual tokens give the means for a centred bank.")
]
CoverageOption = Annotated[
    float, typer.Option(help="Share of a patch that its thing covers in an object patch.")
]
RandomOption = Annotated[
    bool, typer.Option("--random/--no-random", help="Beside it the same with a projector of random weights.")
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder for the figures and the JSON.")
]


@dataclass(frozen=True)
class _Bench:
    """What scoring takes: the VLM, with random weights too, and the scenes made for its grid."""

    model: VisualModel
    random: VisualModel | None
    scenes: Sequence[Scene]
    calibration: Sequence[Scene]
    layers: list[int]

    def setup(self, progress: Progress, coverage: float) -> Setup:
        """Give what the evaluations of a comparison share."""
        from query.experiments.compare import Setup

        return Setup(self.scenes, self.layers, self.calibration, coverage, progress)


def _bench(
    name: str,
    layers: str | None,
    scenes: int,
    calibration: int,
    random: bool,
    device: str | None,
    dtype: str | None,
    revision: str | None,
    trust_remote_code: bool,
    bank_layers: list[int] | Callable[[int], list[int]] | None = None,
) -> _Bench:
    """Load the VLM as deep as the visual layers, and `bank_layers` where they are given, and make the scenes."""
    from models.scenes import EVALUATION, VALIDATION, load_things, make_scene
    from query.controls import with_random_projector
    from query.evaluate import evaluation_layers, grid_of

    if not 2 <= scenes <= len(EVALUATION):
        raise LatentBankError(f"--scenes is {scenes}; it can be 2 to {len(EVALUATION)}.")
    if not 0 <= calibration <= len(VALIDATION):
        raise LatentBankError(f"--calibration is {calibration}; it can be 0 to {len(VALIDATION):,}.")
    chosen = numbers(layers)

    def deepest(count: int) -> int:
        stored = bank_layers(count) if callable(bank_layers) else bank_layers or []
        return max([*(chosen or evaluation_layers(count)), *stored])

    model = load_vlm(name, deepest, device, dtype, revision, trust_remote_code)
    grid = grid_of(model)
    things = load_things()
    held_out = [make_scene(things, seed, grid) for seed in EVALUATION[:scenes]]
    others = [make_scene(things, seed, grid) for seed in VALIDATION[:calibration]]
    blind = with_random_projector(model, [scene.image for scene in held_out[:32]]) if random else None
    if random and blind is None:
        print(
            f"{model.name} has no projector that can be replaced: no random one beside it.", file=sys.stderr
        )
    return _Bench(model, blind, held_out, others, chosen or evaluation_layers(model.num_layers))


def _lenses(names: str, bank: Bank, bank_layers: str, where: Filter | None, model: VisualModel) -> list[Lens]:
    from models.visual import unembedding_of
    from query.lenses import EmbeddingLens, LatentLens, LogitLens

    make: dict[str, Callable[[], Lens]] = {
        "latent": lambda: LatentLens(bank, bank_layers_of(bank_layers), where),
        "logit": lambda: LogitLens(unembedding_of(model), model.language.tokenizer),
        "embedding": lambda: EmbeddingLens(model.language.embedding, model.language.tokenizer),
    }
    wanted = list(dict.fromkeys(name.strip() for name in names.split(",")))
    if unknown := [name for name in wanted if name not in make]:
        raise LatentBankError(f"There is no lens '{unknown[0]}'; there are {', '.join(make)}.")
    return [make[name]() for name in wanted]


@contextmanager
def _opened(bank: str | None) -> Iterator[Bank]:
    from bank.bank import open_bank

    settings = Common.settings()
    with open_bank(only_bank(bank, settings), settings) as opened:
        yield opened


@evaluate_app.command("scenes", epilog="Example: latentbank evaluate scenes --bank demo --output scores")
def evaluate_scenes(
    bank: BankOption = None,
    model: ModelsOption = "demo",
    visual_layers: VisualLayersOption = None,
    bank_layers: BankLayersOption = "all",
    lens: LensOption = "latent,logit,embedding",
    where: WhereOption = None,
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
    """Score lenses on held-out scenes: the share of patches that they name, with two controls."""
    from bank.where import parse_where
    from latentbank_progress import shown
    from query.evaluate import evaluate
    from query.figures import draw_evaluation

    condition = parse_where(where or [])
    with _opened(bank) as opened:
        bench = _bench(
            model, visual_layers, scenes, calibration, random, device, dtype, revision, trust_remote_code
        )
        lenses = _lenses(lens, opened, bank_layers, condition, bench.model)
        with shown("evaluating", "scenes") as progress:
            found = evaluate(
                bench.model,
                lenses,
                bench.scenes,
                bench.layers,
                random=bench.random,
                calibration=bench.calibration,
                coverage=coverage,
                alone=bench.layers[:1],
                progress=progress,
            )
    data = {"where": list(where or []), **found.to_dict()}
    write_scores(data, output, "evaluation", lambda folder: draw_evaluation(found, folder))
    if as_json:
        print(json.dumps(data, ensure_ascii=False, indent=1))
    else:
        show_evaluation(found)


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
    from latentbank_progress import shown
    from query.experiments.alignment import align, peaks
    from query.figures import draw_bank_layers, draw_first
    from query.lenses import LatentLens

    with _opened(bank) as opened:
        bench = _bench(
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
    random: RandomOption = False,
    output: OutputOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Plain cosine against centring: by layer, by lens and by corpus. --lens names those beside LatentLens."""
    from latentbank_progress import shown
    from query.experiments.compare import compare_metrics

    with ExitStack() as stack:
        plain = stack.enter_context(_opened(bank))
        other = stack.enter_context(_opened(centred))
        bench = _bench(
            model, visual_layers, scenes, calibration, random, device, dtype, revision, trust_remote_code
        )
        others = _lenses(lens, plain, bank_layers, None, bench.model)
        with shown("evaluating", "scenes") as progress:
            compared = compare_metrics(
                bench.setup(progress, coverage),
                bench.model,
                plain,
                other,
                [one for one in others if one.name != "latent"],
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
    random: RandomOption = False,
    output: OutputOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """How much a corpus matters: corpora of one size, each read by itself. --layers and --metric are a new bank's."""
    from bank.bank import create_bank
    from latentbank_progress import shown
    from query.experiments.compare import compare_corpora

    settings = Common.settings()
    known = known_bank(bank, None, settings) if sources else None
    stored = numbers(layers) or (list(known.layers) if known else None)
    with ExitStack() as stack:
        if not sources:
            opened = stack.enter_context(_opened(bank))
        bench = _bench(
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
                    settings,
                    model=llm.name,
                    revision=llm.revision,
                    fingerprint=llm.fingerprint(),
                    layers=stored or default_layers(llm.num_layers),
                    num_layers=llm.num_layers,
                    hidden_size=llm.hidden_size,
                    metric=cast("Any", metric),
                )
            )
            _store_equal(sources, opened, llm, contexts)
        with shown("evaluating", "scenes") as progress:
            compared = compare_corpora(
                bench.setup(progress, coverage),
                bench.model,
                opened,
                bank_layers_of(bank_layers),
                bench.random,
            )
        sizes = {name: entry.contexts for name, entry in opened.corpora.items()}
    show_compared(compared, output, "corpus-swap", as_json=as_json, more={"contexts": sizes})


def _store_equal(sources: Sequence[str], bank: Bank, llm: LanguageModel, contexts: int | None) -> None:
    """Ingest corpora with as many contexts each, under the names of their files."""
    from ingest import job
    from ingest.equal import equal_plans
    from latentbank_progress import shown

    corpora = {Path(source).name.split(".")[0]: source for source in sources}
    if len(corpora) < len(sources):
        raise LatentBankError("Two corpora have the same name; rename their files.")
    opened = {
        name: corpus_of([source], name, None, None, None, None, None) for name, source in corpora.items()
    }
    folder = plan_folder(Common.settings(), bank.name, "")
    with shown("planning", "sentences") as progress:
        plans = equal_plans(opened, llm, folder, contexts=contexts, progress=progress)
    for name, plan in plans.items():
        with shown(f"ingesting {name}", "contexts") as progress:
            job.run(bank, plan, llm, progress)


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
    output: OutputOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Whether the projector matters: losses, shares, and whether the mid-layer leap survives."""
    from latentbank_progress import shown
    from query.experiments.compare import compare_projectors

    with _opened(bank) as opened:
        benches = {
            Path(name).stem: _bench(
                name, visual_layers, scenes, calibration, False, device, dtype, None, False
            )
            for name in projectors
        }
        first = next(iter(benches.values()))
        if len(benches) < 2:
            raise LatentBankError("Name at least two projector files, with different names.")
        others = _lenses(lens, opened, bank_layers, None, first.model)
        with shown("evaluating", "scenes") as progress:
            compared = compare_projectors(
                first.setup(progress, coverage),
                {label: bench.model for label, bench in benches.items()},
                opened,
                [one for one in others if one.name != "latent"],
                bank_layers_of(bank_layers),
            )
    cards = {label: dict(getattr(bench.model, "card", {})) for label, bench in benches.items()}
    show_compared(compared, output, "projector", as_json=as_json, more={"cards": cards})
