"""What the commands share: options, settings, and how a bank, an LLM or a corpus is named."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from latentbank.errors import BankMismatch, BankNotFound, LatentBankError

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.bank.layers import BankLayers
    from latentbank.bank.manifest import Manifest
    from latentbank.bank.settings import Settings
    from latentbank.bank.sizing import Machines
    from latentbank.models.language.model import LanguageModel

BankOption = Annotated[
    str | None,
    typer.Option(
        "--bank",
        "-b",
        help="The bank, or a version such as NAME@2; by default LATENTBANK_BANK, else the only one.",
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Hub id, folder or .gguf file; by default the bank's own model."),
]
LayersOption = Annotated[
    str | None, typer.Option("--layers", help="Bank layers of a new bank, such as 4,8,12,16.")
]
DeviceOption = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1; by default a GPU where there is one.")
]
DtypeOption = Annotated[
    str | None, typer.Option(help="float32, bfloat16 or float16; by default by the device.")
]
RevisionOption = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")]
TrustOption = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")]
SourcesArgument = Annotated[
    list[str] | None,
    typer.Argument(help="Files, globs, - for standard input, or a hub dataset.", show_default=False),
]
NameOption = Annotated[
    str | None, typer.Option("--name", "-n", help="Name of the corpus; by default the file's.")
]
ColumnOption = Annotated[
    str | None, typer.Option(help="Column that holds the sentences; by default it is found.")
]
ConfigOption = Annotated[str | None, typer.Option("--config", help="Configuration of a hub dataset.")]
SplitOption = Annotated[str | None, typer.Option(help="Split of a hub dataset.")]
LimitOption = Annotated[int | None, typer.Option(help="Read only the first so many sentences.")]
BosOption = Annotated[
    str, typer.Option(help="tokenizer: as it does by itself; always: BOS before each sentence.")
]
SkipOption = Annotated[int, typer.Option(help="Leading tokens of a sentence that are left out.")]
CapOption = Annotated[int, typer.Option("--contexts-per-token", help="Contexts of one token id at most.")]
MaxTokensOption = Annotated[int, typer.Option(help="Cut sentences after so many tokens.")]
MetricOption = Annotated[
    str | None,
    typer.Option(
        help="cosine or centred (the mean of each kind of token is taken away first); for a new bank."
    ),
]
PlanOption = Annotated[
    Path | None, typer.Option("--plan", help="Folder of the plan; by default beside the banks.")
]
ShardOption = Annotated[
    str | None, typer.Option(help="Store only this share of the plan, such as 0/4, the first of four.")
]
RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        help="Store all shares of the plan with Ray: local (this machine), auto (its cluster) or ray://HOST:10001.",
    ),
]
WorkersOption = Annotated[
    int | None, typer.Option(help="With --ray: how many workers; by default one for each GPU.")
]
ReplaceOption = Annotated[
    bool,
    typer.Option(
        "--replace", help="Put the corpus in the place of the one of its name, once it is complete."
    ),
]
BatchOption = Annotated[
    int | None, typer.Option(help="Tokens in one forward pass; by default by the device.")
]
IncompleteOption = Annotated[
    bool, typer.Option("--include-incomplete", help="Search corpora that are not complete, too.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON (docs/json.md describes it).")]
EstimateOption = Annotated[
    bool, typer.Option("--estimate", help="Say too what a Qdrant cluster needs; so do the options below.")
]
NodeRamOption = Annotated[float | None, typer.Option(help="GB of RAM of a cluster's node (64).")]
NodeDiskOption = Annotated[float | None, typer.Option(help="GB of disk of a node (1000).")]
NodeCoresOption = Annotated[int | None, typer.Option(help="Cores of a node (16).")]
NodePriceOption = Annotated[float | None, typer.Option(help="Price of a node's hour (1.00).")]
GpusOption = Annotated[int | None, typer.Option(help="GPUs that run the LLM, a worker for each (1).")]
GpuTflopsOption = Annotated[
    float | None, typer.Option(help="10¹² operations that a GPU really gets done in a second (100).")
]
GpuPriceOption = Annotated[float | None, typer.Option(help="Price of a GPU's hour (2.00).")]


class Common:
    """What stands before the command."""

    url: str | None = None
    data_dir: Path | None = None
    debug = False

    @classmethod
    def settings(cls, **given: Any) -> Settings:
        """Give the settings, with what stands before the command."""
        from latentbank.bank.settings import load_settings

        return load_settings(url=cls.url, data_dir=cls.data_dir, **given)


def writer_settings(**given: Any) -> Settings:
    """Give the settings of a command that changes banks; stops it before any work if the key is a reader's."""
    from latentbank.bank.store.base import require_writer

    settings = Common.settings(**given)
    require_writer(settings)
    return settings


def corpus_of(
    sources: list[str] | None,
    name: str | None,
    column: str | None,
    config: str | None,
    split: str | None,
    revision: str | None,
    limit: int | None,
) -> Any:
    """Open the corpus that a command names; its name is the first file's where none is given."""
    from latentbank.ingest.corpus import open_corpus

    if not sources:
        raise LatentBankError("Name a corpus: files, a hub dataset, or - for standard input.")
    stem = Path(sources[0]).name.split(".")[0]
    if name is None and stem in ("", "-"):
        raise LatentBankError("Give the corpus a name with --name.")
    return open_corpus(
        name or stem, sources, column=column, config=config, split=split, revision=revision, limit=limit
    )


def load_llm(
    name: str | None,
    layers: list[int] | None,
    device: str | None,
    dtype: str | None,
    revision: str | None,
    trust_remote_code: bool,
) -> LanguageModel:
    """Load an LLM as deep as the layers asked for, and say so where it takes a while."""
    if name is None:
        raise LatentBankError("Name the LLM with --model: a hub id, a folder or a .gguf file.")
    from latentbank.ingest.defaults import default_layers
    from latentbank.models.language.model import load_language_model

    if name.endswith(".gguf") and Path(name).is_file():
        print(f"unpacking {name}, up to a minute ...", file=sys.stderr)
    return load_language_model(
        name,
        device=device,
        dtype=dtype,
        revision=revision,
        deepest_layer=max(layers) if layers else lambda count: max(default_layers(count)),
        trust_remote_code=trust_remote_code,
    )


def known_bank(bank: str | None, model: str | None, settings: Settings) -> Manifest | None:
    """Give the manifest of the bank that an ingestion means, if it is there already.

    That is the one named, else the one called like the model, else, without a model, the only one.
    """
    from latentbank.bank.opening import list_banks, open_bank
    from latentbank.ingest.defaults import bank_name

    name = bank or settings.bank or (bank_name(model) if model else None)
    if name is None:
        banks = list_banks(settings)
        if len(banks) != 1:
            return None
        (name,) = banks
    try:
        with open_bank(name, settings) as opened:
            return opened.manifest
    except BankNotFound:
        return None


def check_quantization(known: Manifest | None, quantization: str | None) -> None:
    """Make sure that a command does not ask for another quantization than a bank that is there has.

    Raises:
        BankMismatch: it does.
    """
    if known and quantization not in (None, known.quantization):
        raise BankMismatch(
            f"The bank '{known.bank}' is quantized as {known.quantization}; leave --quantization out."
        )


def only_bank(bank: str | None, settings: Settings) -> str:
    """Give the name of the bank a command means: the one named, the setting's, or the only one."""
    from latentbank.bank.opening import list_banks

    if bank or settings.bank:
        return bank or settings.bank
    banks = list_banks(settings)
    if len(banks) == 1:
        return banks[0]
    found = (
        f"there are {', '.join(banks)}" if banks else "there is none yet: `latentbank ingest run` makes one"
    )
    raise LatentBankError(f"Name a bank; {found}.")


@contextmanager
def opened_bank(bank: str | None, *, include_incomplete: bool = False) -> Iterator[Bank]:
    """Open the bank that a command means, for as long as it is needed."""
    from latentbank.bank.opening import open_bank

    settings = Common.settings()
    name = only_bank(bank, settings)
    with open_bank(name, settings, include_incomplete=include_incomplete) as opened:
        yield opened


def machines_of(
    settings: Settings,
    wanted: bool,
    node_ram: float | None,
    node_disk: float | None,
    node_cores: int | None,
    node_price: float | None,
    gpus: int | None,
    gpu_tflops: float | None,
    gpu_price: float | None,
) -> Machines | None:
    """Give the machines that an estimate is for; None where it is not `wanted` and no option names one.

    Shards and replicas are those of the settings.

    Raises:
        LatentBankError: there cannot be such machines.
    """
    from latentbank.bank.sizing import GB, Machines

    given = {
        "node_ram": None if node_ram is None else node_ram * GB,
        "node_disk": None if node_disk is None else node_disk * GB,
        "node_cores": node_cores,
        "node_price": node_price,
        "gpus": gpus,
        "gpu_flops": None if gpu_tflops is None else gpu_tflops * 1e12,
        "gpu_price": gpu_price,
    }
    named: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if not wanted and not named:
        return None
    return Machines(replicas=settings.replication_factor, shards=settings.shard_number, **named)


def models_folder(settings: Settings) -> Path:
    """Give the folder of models that were converted once, for faster loads later."""
    return settings.data_dir / ".models"  # no bank's name begins with a dot


def bank_layers_of(text: str) -> BankLayers:
    """Read --bank-layers."""
    return cast("BankLayers", text) if text in ("mid", "all") else numbers(text) or []


def numbers(text: str | None) -> list[int] | None:
    """Read a list of layers such as 4,8,12; None where none is given."""
    if text is None:
        return None
    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise LatentBankError(
            f"'{text}' names no layers; write numbers with commas, such as 4,8,12."
        ) from None
