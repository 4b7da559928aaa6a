"""Commands that take images: reading them, and measuring the norms of their visual tokens."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from latentbank.cli.options import (
    BankOption,
    Common,
    ConfigOption,
    DeviceOption,
    DtypeOption,
    IncompleteOption,
    JsonOption,
    RevisionOption,
    SplitOption,
    TrustOption,
    bank_layers_of,
    models_folder,
    numbers,
    opened_bank,
)
from latentbank.errors import ImageError, LatentBankError, QueryError
from latentbank.query.lenses.base import LensOptions
from latentbank.query.lenses.registry import lens_class, lens_names, lenses_of

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.bank.layers import BankLayers
    from latentbank.models.vision.vision_language import VisualModel
    from latentbank.query.output.files import Targets
    from latentbank.query.output.parquet import ReadingFolder
    from latentbank.query.reading.images import Images, ImageSource
    from latentbank.query.reading.norms import Norms
    from latentbank.query.reading.reading import Reading

ImagesArgument = Annotated[
    list[str],
    typer.Argument(help="Files, globs, folders, .parquet files or hub datasets.", show_default=False),
]
VisualModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Hub id or folder of a VLM, a projector's .safetensors file, or demo; by default the bank's own model.",
    ),
]
VisualLayersOption = Annotated[
    str | None,
    typer.Option("--visual-layers", help="Layers that visual tokens are taken from, such as 0,4,8,16."),
]
PromptOption = Annotated[
    str | None, typer.Option(help="Text beside the image; by default the model's own way.")
]
ImageBatchOption = Annotated[int, typer.Option("--batch", help="Images in one forward pass.")]
ImageColumnOption = Annotated[
    str | None, typer.Option("--column", help="Column of a dataset that holds the images; by default found.")
]
ImageLimitOption = Annotated[int | None, typer.Option("--limit", help="Take only the first so many images.")]


def query_image(
    images: ImagesArgument,
    bank: BankOption = None,
    model: VisualModelOption = None,
    visual_layers: VisualLayersOption = None,
    bank_layers: Annotated[str, typer.Option(help="mid, all, or numbers such as 8,12.")] = "mid",
    lens: Annotated[str, typer.Option(help="latent, logit, embedding, or several with commas.")] = "latent",
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="Neighbors per visual token.")] = 5,
    where: Annotated[
        list[str] | None, typer.Option(help="Filter, such as word=dog|cat or corpus!=news; all must hold.")
    ] = None,
    unique: Annotated[str | None, typer.Option(help="One neighbor per context or per word.")] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Compare with every context in full precision.")
    ] = False,
    include_incomplete: IncompleteOption = False,
    prompt: PromptOption = None,
    means: Annotated[
        Path | None,
        typer.Option(
            help="For a centred bank: file of visual means; those kept with the VLM, else each image's own."
        ),
    ] = None,
    batch: ImageBatchOption = 8,
    column: ImageColumnOption = None,
    config: ConfigOption = None,
    split: SplitOption = None,
    limit: ImageLimitOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    parquet: Annotated[
        Path | None,
        typer.Option(help="Write one Parquet file an image here; images that have one are skipped."),
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Write a PNG of each image here, the best word on each patch.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page to look at: a file for one image, else a folder.")
    ] = None,
    png: Annotated[
        Path | None, typer.Option(help="Write a figure for a paper: a file for one image, else a folder.")
    ] = None,
    pdf: Annotated[Path | None, typer.Option(help="The same as --png, as PDF.")] = None,
    svg: Annotated[Path | None, typer.Option(help="The same as --png, as SVG.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Read the visual tokens of images through one lens or several. Exits 1 if an image could not be read."""
    from latentbank.bank.where import parse_where
    from latentbank.query.lenses.centring import described, load_means
    from latentbank.query.output.files import Targets
    from latentbank.query.reading.images import find_images
    from latentbank.query.reading.visual import default_visual_layers, read_images

    if as_json and parquet is not None:
        raise QueryError("Readings go to one place: choose --json or --parquet.")
    lenses = lens_names(lens)
    wanted = numbers(visual_layers)
    chosen_layers = bank_layers_of(bank_layers)
    condition = parse_where(where or [])
    if unique not in (None, "context", "word"):
        raise QueryError(f"'{unique}' is nothing to be unique by: --unique context or --unique word.")
    once = cast("Any", unique)
    found = find_images(images, column=column, config=config, split=split, limit=limit)
    files = {"html": html, "png": png, "pdf": pdf, "svg": svg}
    targets = Targets({kind: path.expanduser() for kind, path in files.items() if path is not None})
    targets.check(found.total)
    with ExitStack() as stack:
        opened, name, known_revision = _bank_and_model(
            stack,
            bank,
            model,
            needed=any(lens_class(one).needs_bank for one in lenses),
            include_incomplete=include_incomplete,
        )
        if opened is not None:
            opened.choose_layers(chosen_layers)
        vlm = load_vlm(
            name,
            max(wanted) if wanted else (lambda count: max(default_visual_layers(count))),
            device,
            dtype,
            revision or known_revision,
            trust_remote_code,
        )
        layers = wanted or default_visual_layers(vlm.num_layers)
        if means is None and opened is not None and opened.metric == "centred":
            means = vlm.means_file if vlm.means_file is not None and vlm.means_file.is_file() else None
        query_mean = load_means(means, vlm.fingerprint()) if means is not None else None
        through = lenses_of(lenses, LensOptions(vlm, opened, chosen_layers, condition, once, exact))
        job = _ImageJob(found, as_json, pictures, targets)
        if parquet is not None:
            choice = {
                "lenses": lenses,
                "visual_layers": layers,
                "top_k": top_k,
                "unique": unique,
                "prompt": prompt,
                "where": where or [],
                "exact": exact,
                "query_mean": described(query_mean),
                # What the means are called does not tell those of one set of images from those of another.
                "means": None
                if means is None
                else hashlib.blake2b(means.read_bytes(), digest_size=16).hexdigest(),
            }
            job.folder = _folder(parquet, vlm, opened, chosen_layers, choice)
        job.run(
            lambda these: read_images(
                vlm,
                these,
                through,
                layers,
                top_k=top_k,
                prompt=prompt,
                batch=batch,
                query_mean=query_mean,
                broken=job.broken,
                warn=_warn,
            )
        )


def query_norms(
    images: ImagesArgument,
    bank: BankOption = None,
    model: VisualModelOption = None,
    visual_layers: Annotated[
        str | None, typer.Option("--visual-layers", help="Layers to compare; by default all.")
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="Files or hub datasets of sentences; by default a few of our own."),
    ] = None,
    sentences: Annotated[int, typer.Option(help="Sentences taken from --text.")] = 200,
    prompt: PromptOption = None,
    batch: ImageBatchOption = 8,
    column: ImageColumnOption = None,
    config: ConfigOption = None,
    split: SplitOption = None,
    limit: ImageLimitOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare the norms of visual tokens with those of text, layer by layer."""
    from latentbank.ingest.corpus import Counts, open_corpus, read_sentences
    from latentbank.query.reading.images import find_images
    from latentbank.query.reading.norms import SENTENCES, measure_norms

    wanted = numbers(visual_layers)
    found = find_images(images, column=column, config=config, split=split, limit=limit)
    corpus = open_corpus("text", text, limit=sentences) if text else None
    compared = list(read_sentences(corpus, Counts())) if corpus else SENTENCES
    with ExitStack() as stack:
        _, name, known_revision = _bank_and_model(stack, bank, model, needed=False)
        vlm = load_vlm(
            name,
            max(wanted) if wanted else (lambda count: count),
            device,
            dtype,
            revision or known_revision,
            trust_remote_code,
        )
        job = _ImageJob(found, as_json, None)
        norms = measure_norms(
            vlm,
            job.counted(),
            wanted or range(vlm.num_layers + 1),
            sentences=compared,
            prompt=prompt,
            batch=batch,
            broken=job.broken,
            warn=_warn,
        )
    _show_norms(norms, as_json=as_json)
    if job.failed:
        raise typer.Exit(1)


def query_means(
    images: ImagesArgument,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write, for query image --means; by default beside the VLM's own files.",
        ),
    ] = None,
    bank: BankOption = None,
    model: VisualModelOption = None,
    visual_layers: Annotated[
        str | None, typer.Option("--visual-layers", help="Layers to measure; by default all.")
    ] = None,
    prompt: PromptOption = None,
    batch: ImageBatchOption = 8,
    column: ImageColumnOption = None,
    config: ConfigOption = None,
    split: SplitOption = None,
    limit: ImageLimitOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Measure the mean visual token of each layer on many images, for reading others against a centred bank."""
    from latentbank.query.lenses.centring import save_means
    from latentbank.query.reading.calibrate import measure_means
    from latentbank.query.reading.images import find_images

    wanted = numbers(visual_layers)
    found = find_images(images, column=column, config=config, split=split, limit=limit)
    with ExitStack() as stack:
        _, name, known_revision = _bank_and_model(stack, bank, model, needed=False)
        vlm = load_vlm(
            name,
            max(wanted) if wanted else (lambda count: count),
            device,
            dtype,
            revision or known_revision,
            trust_remote_code,
        )
        file = output or vlm.means_file
        if file is None:
            raise LatentBankError(
                f"{vlm.name} comes from no folder of yours: say with --output where the means go."
            )
        job = _ImageJob(found, False, None)
        layers = wanted or range(vlm.num_layers + 1)
        means = measure_means(vlm, job.counted(), layers, prompt=prompt, batch=batch, broken=job.broken)
    save_means(file, means)
    print(f"The mean of {means.kind} ({means.count:,} in all) at {len(layers)} layers is in {file}.")
    if job.failed:
        raise typer.Exit(1)


def load_vlm(
    name: str,
    deepest_layer: int | Callable[[int], int],
    device: str | None,
    dtype: str | None,
    revision: str | None,
    trust_remote_code: bool,
    say: Callable[[str], None] | None = None,
) -> VisualModel:
    """Load what a command calls --model; see `load_visual_model`. The demo's LLM is kept beside the banks.

    `say` is told of what takes long; None: standard error is.
    """
    from latentbank.models.visual import load_visual_model

    return load_visual_model(
        name,
        device=device,
        dtype=dtype,
        revision=revision,
        deepest_layer=deepest_layer,
        trust_remote_code=trust_remote_code,
        folder=models_folder(Common.settings()) / "demo",
        say=say or (lambda text: print(text, file=sys.stderr)),
    )


class _ImageJob:
    """Reading the images of one command: what is skipped, what failed, and where readings go."""

    def __init__(
        self, images: Images, as_json: bool, pictures: Path | None, targets: Targets | None = None
    ) -> None:
        self.images = images
        self.as_json = as_json
        self.pictures = pictures
        self.targets = targets
        self.folder: ReadingFolder | None = None
        self.read = self.found = self.failed = 0
        self._sources: dict[str, ImageSource] = {}

    def broken(self, name: str, error: LatentBankError) -> None:
        """Count an image that cannot be read, and say so; the only one of a command ends it."""
        self._sources.pop(name, None)
        if self.images.total == 1:
            raise error
        self.failed += 1
        print(f"skipped: {error}", file=sys.stderr)

    def counted(self) -> Iterator[ImageSource]:
        """Give the images, with progress."""
        from latentbank.progress import shown

        with shown("measuring", "images") as progress:
            for number, image in enumerate(self.images):
                progress.update(number, self.images.total)
                yield image

    def run(self, read: Callable[[Iterable[ImageSource]], Iterator[Reading]]) -> None:
        """Read the images that are not done yet, and put each reading where it belongs as soon as it is there."""
        from latentbank.progress import Silent, shown

        to_screen = self.folder is None and not self.as_json
        with nullcontext(Silent()) if to_screen else shown("reading", "images") as progress:
            if self.as_json:
                print("[", end="")
            for reading in read(self._pending()):
                image = self._sources.pop(reading.source)
                if self.pictures is not None:
                    from latentbank.query.output.pictures import save_reading

                    save_reading(reading, self.pictures / image.file_name(".png"))
                if self.targets is not None:
                    self.targets.write(image, reading)
                if self.folder is not None:
                    self.folder.write(image, reading)  # last: an image that has this file is done
                elif self.as_json:
                    print(
                        "," if self.read else "", json.dumps(reading.to_dict(), ensure_ascii=False), sep="\n"
                    )
                else:
                    _show_reading(reading)
                self.read += 1
                progress.update(self.found + self.failed + self.read, self.images.total)
            if self.as_json:
                print("\n]")
        if not self.read + self.found:
            raise ImageError("Not one of the images could be read; see above why.")
        if self.folder is not None:
            before = f", {self.found:,} were there before" if self.found else ""
            print(f"Read {self.read:,} images into {self.folder.folder}{before}.")
        if self.failed:
            print(f"{self.failed:,} images could not be read.", file=sys.stderr)
            raise typer.Exit(1)

    def _pending(self) -> Iterator[ImageSource]:
        for image in self.images:
            if self.folder is not None and self.folder.path(image).exists():
                self.found += 1
                continue
            self._sources[image.name] = image
            yield image


def _bank_and_model(
    stack: ExitStack, bank: str | None, model: str | None, *, needed: bool, include_incomplete: bool = False
) -> tuple[Bank | None, str, str | None]:
    """Open the bank a command means, if it is needed or names the model; give it, the model and its revision."""
    if model is not None and not needed:
        return None, model, None
    opened = stack.enter_context(opened_bank(bank, include_incomplete=include_incomplete))
    if model is not None:
        return opened, model, None
    return opened, opened.manifest.model, opened.manifest.revision


def _folder(
    path: Path, vlm: VisualModel, bank: Bank | None, bank_layers: BankLayers, choice: Mapping[str, Any]
) -> ReadingFolder:
    """Open the folder of --parquet, with everything that readings depend on."""
    from latentbank.query.output.parquet import ReadingFolder
    from latentbank.query.reading.visual_tokens import called

    settings: dict[str, Any] = {
        "model": vlm.name,
        "revision": vlm.revision,
        "fingerprint": vlm.fingerprint(),
        "dtype": called(vlm.language.dtype),
        **choice,
    }
    if bank is not None:
        settings |= {
            "bank": bank.name,
            "metric": bank.metric,
            "bank_layers": bank.choose_layers(bank_layers),
            "corpora": {entry.name: entry.content_hash for entry in bank.shown_corpora.values()},
        }
    return ReadingFolder(path, settings)


def _warn(said: str) -> None:
    print(f"warning: {said}", file=sys.stderr)


def _show_reading(reading: Reading) -> None:
    """Print an image's reading for people: grids of the best words."""
    from rich.console import Console

    from latentbank.query.output.grids import grid_lines

    console = Console()
    console.print(reading.title(), style="bold", highlight=False, markup=False)
    for line in grid_lines(reading, console.width):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(f"boxes: {reading.geometry}", style="dim", highlight=False, markup=False)


def _show_norms(norms: Norms, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(norms.to_dict(), ensure_ascii=False, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "layer",
        "visual",
        "5 % to 95 %",
        "largest",
        "text",
        "5 % to 95 %",
        "ratio",
        title=f"{norms.model}: norms of the visual tokens of {norms.images:,} images beside text, in {norms.dtype}",
        title_justify="left",
        caption="medians; ratio: visual to text",
        caption_justify="left",
    )
    for layer in norms.layers:
        one, other = layer.visual, layer.text
        table.add_row(
            str(layer.layer),
            f"{one.median:,.4g}",
            f"{one.low:,.4g} to {one.high:,.4g}",
            f"{one.largest:,.4g}",
            f"{other.median:,.4g}",
            f"{other.low:,.4g} to {other.high:,.4g}",
            f"{layer.ratio:.2f}",
        )
    Console().print(table)
