"""`latentbank train lens` and `latentbank import lens`: lenses that are made for one LLM, and kept beside the banks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from latentbank.cli.grouping import command
from latentbank.cli.importing import app as import_app
from latentbank.cli.options.common import GlobalOptions, JsonOption, numbers
from latentbank.cli.options.corpora import CorpusOptions
from latentbank.cli.options.models import LoadingOptions
from latentbank.cli.train import app
from latentbank.errors import LatentBankError

if TYPE_CHECKING:
    from latentbank.bank.settings import Settings
    from latentbank.models.language.model import LanguageModel
    from latentbank.models.language.translators import TranslatorKind, Translators
    from latentbank.models.training.checkpoint import Checkpoint

ModelOption = Annotated[
    str,
    typer.Option("--model", "-m", help="Hub id or folder of an LLM or a VLM, a .gguf file, or demo."),
]
LensFileOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="File to write; by default beside the banks, where lenses find it."),
]


@command(
    app,
    "lens",
    example="train lens captions.txt --model HuggingFaceTB/SmolLM2-135M --layers 0,4,8,16",
    first="sources model kind layers sentences passes rate rows batch seed output",
)
def train_lens(
    ctx: typer.Context,
    *,
    corpus: CorpusOptions,
    model: ModelOption,
    kind: Annotated[str, typer.Option(help="tuned or jacobian.")] = "tuned",
    layers: Annotated[
        str | None, typer.Option("--layers", help="Layers that get a map; by default all but the last.")
    ] = None,
    sentences: Annotated[int, typer.Option(min=2, help="Sentences drawn at random from the corpus.")] = 2000,
    passes: Annotated[int, typer.Option(min=1, help="How often a tuned lens reads them.")] = 1,
    rate: Annotated[
        float, typer.Option(min=0.0, help="Highest learning rate of a tuned lens, above 0.")
    ] = 0.001,
    rows: Annotated[
        int, typer.Option(min=1, help="Rows of the Jacobian that are computed of each sentence.")
    ] = 8,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens in one forward pass; by default 128 for tuned, 256 for jacobian."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sample, the order and the rows.")] = 0,
    output: LensFileOption = None,
    loading: LoadingOptions,
    as_json: JsonOption = False,
) -> None:
    """Train a tuned lens of an LLM on text, or compute its Jacobian lens: for --lens tuned and --lens jacobian.

    A run that was stopped continues when it is started again with the same options.
    """
    from latentbank.ingest.corpus import Counts, read_sentences
    from latentbank.models.training.checkpoint import Checkpoint
    from latentbank.models.training.texts import sample

    if kind not in ("tuned", "jacobian"):
        raise LatentBankError(
            f"There is no lens '{kind}' to train; choose tuned or jacobian.", argument="kind"
        )
    settings = GlobalOptions.of(ctx).settings()
    source = corpus.open()
    drawn = sample(read_sentences(source, Counts()), sentences, seed)
    language = load_llm(model, loading, settings)
    file = output or _kept(kind, language.fingerprint(), settings)
    checkpoint = Checkpoint(file.with_name(f"{file.name}.unfinished"))
    choices = passes, rate, rows, batch, seed
    made = _made(kind, language, drawn, numbers(layers), source.name, choices, checkpoint)
    _keep(made, file, as_json=as_json)
    checkpoint.remove()


@command(
    import_app,
    "lens",
    example="import lens lens/gpt2 --model gpt2",
    first="source model output",
)
def import_lens(
    ctx: typer.Context,
    *,
    source: Annotated[
        Path,
        typer.Argument(
            help="Folder with config.json and params.pt (tuned-lens), or a .pt file of Jacobians (jlens)."
        ),
    ],
    model: ModelOption,
    output: LensFileOption = None,
    loading: LoadingOptions,
    as_json: JsonOption = False,
) -> None:
    """Take a tuned lens or a Jacobian lens that others have released for an LLM."""
    from latentbank.models.language.translators import read_released

    settings = GlobalOptions.of(ctx).settings()
    found = read_released(source, load_llm(model, loading, settings))
    file = output or _kept(found.kind, str(found.card["fingerprint"]), settings)
    _keep(found, file, as_json=as_json)


def load_llm(name: str, loading: LoadingOptions, settings: Settings) -> LanguageModel:
    """Load an LLM whole, also the one inside a model of a family, such as demo, or of a projector's file."""
    from latentbank.models.vision.registry import model_loader

    if model_loader(name) or name.endswith(".safetensors"):
        return loading.load_vlm(name, lambda count: count, settings).language
    return loading.load_language(name, lambda count: count)


def _made(
    kind: str,
    language: LanguageModel,
    sentences: list[str],
    layers: list[int] | None,
    corpus: str,
    choices: tuple[int, float, int, int | None, int],
    checkpoint: Checkpoint,
) -> Translators:
    from latentbank.models.language.unembedding import unembedding_of_language
    from latentbank.models.training.jacobian import JacobianSettings, compute_jacobian
    from latentbank.models.training.tuned import TunedSettings, train_tuned
    from latentbank.progress import shown

    passes, rate, rows, batch, seed = choices
    if kind == "jacobian":
        with shown("computing Jacobians", "sentences") as progress:
            how = JacobianSettings(rows=rows, tokens=batch or 256, seed=seed)
            return compute_jacobian(
                language, sentences, layers, how, corpus=corpus, checkpoint=checkpoint, progress=progress
            )
    with shown("training", "tokens") as progress:
        settings = TunedSettings(passes=passes, tokens=batch or 128, rate=rate, seed=seed)
        unembedding = unembedding_of_language(language)
        return train_tuned(
            language,
            unembedding,
            sentences,
            layers,
            settings,
            corpus=corpus,
            checkpoint=checkpoint,
            progress=progress,
        )


def _kept(kind: str, fingerprint: str, settings: Settings) -> Path:
    """Return the file in which lenses find a lens of an LLM."""
    from latentbank.query.lenses.translated import kept_file

    return kept_file(settings.data_dir, cast("TranslatorKind", kind), fingerprint)


def _keep(made: Translators, file: Path, *, as_json: bool) -> None:
    """Write a lens and print what it is."""
    from latentbank.cli.output.jobs import show_lens
    from latentbank.models.language.translators import save_translators

    save_translators(file, made)
    show_lens(file, made.kind, made.layers, made.card, as_json=as_json)
