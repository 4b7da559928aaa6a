"""`latentbank ingest grow`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import typer

from latentbank.cli.grouping import command
from latentbank.cli.ingest import app
from latentbank.cli.options.banks import ModelBankOptions
from latentbank.cli.options.common import (
    GlobalOptions,
    JsonOption,
    bank_layers_of,
    layers_for,
    named_visual_layers,
)
from latentbank.cli.options.corpora import CorpusOptions
from latentbank.cli.options.growing import GrowOptions, WriterOptions
from latentbank.cli.options.models import VisualModelOptions
from latentbank.cli.visual_setup import load_as_deep

if TYPE_CHECKING:
    from pathlib import Path

    from latentbank.ingest.corpus import Corpus


@command(
    app,
    "grow",
    example="ingest grow captions.txt --bank demo --model demo --images photos",
    first="sources bank model images from_llm llm name dry_run",
)
def ingest_grow(
    ctx: typer.Context,
    *,
    corpus: CorpusOptions,
    bank: ModelBankOptions,
    growing: GrowOptions,
    writer: WriterOptions,
    model: VisualModelOptions,
    as_json: JsonOption = False,
) -> None:
    """Add the sentences of a stream, or of an LLM, that come nearer to images' visual tokens than the bank does.

    Run again, it continues where it stopped.
    """
    from latentbank.bank.where import Where
    from latentbank.cli.output.growing import show_growth, show_missing
    from latentbank.ingest.growing.growth import LEAST, grow, growth_folder
    from latentbank.progress import shown
    from latentbank.query.growing.asking import find_missing
    from latentbank.query.reading.visual import default_visual_layers
    from latentbank.query.silence.silence import open_silence

    writer.check(corpus.sources)
    stream = dataclasses.replace(corpus, name=None).open() if corpus.sources else None
    name = corpus.name or grown_name(stream, writer)
    options = GlobalOptions.of(ctx)
    settings = options.settings() if growing.dry_run else options.writer_settings()
    images = growing.find()
    choice = named_visual_layers(growing.visual_layers) or default_visual_layers

    def visual_layers(count: int) -> list[int]:
        return layers_for(choice, count) or []

    with bank.opened(settings) as opened, shown("looking", "images") as progress:
        vlm = load_as_deep(
            model, opened, settings, None, lambda count: max(*opened.layers, *visual_layers(count))
        )
        layers = visual_layers(vlm.num_layers)
        missing = find_missing(
            opened,
            vlm,
            images,
            layers,
            bank_layers=bank_layers_of(growing.bank_layers),
            where=~Where(corpus=name),
            silence=None if growing.fdr is None else open_silence(opened, vlm, growing.fdr),
            tokens_per_image=growing.tokens_per_image,
            progress=progress,
        )
        show_missing(missing)
        if stream is None:
            folder = growth_folder(opened, name)
            stream = written(writer.write(list(missing.words), folder, progress), folder, name)
        report = grow(
            opened,
            stream,
            vlm.language,
            missing,
            name=name,
            least=LEAST if growing.least is None else growing.least,
            replace=growing.replace,
            dry_run=growing.dry_run,
            progress=progress,
        )
    show_growth(report, opened.name, as_json=as_json)


def grown_name(stream: Corpus | None, writer: WriterOptions) -> str:
    """Return the name of the corpus that grows: it says where its sentences come from."""
    from latentbank.ingest.naming import name_of_path

    return f"grown-{name_of_path(writer.name) if stream is None else stream.name}"[:64]


def written(sentences: list[str], folder: Path, name: str) -> Corpus:
    """Return the sentences that an LLM has written as a stream, and keep them in a file, whose lines contexts name."""
    from latentbank.files import write_whole
    from latentbank.ingest.corpus import corpus_from_sentences

    write_whole(folder / "written.txt", "".join(f"{sentence}\n" for sentence in sentences).encode())
    return corpus_from_sentences(name, sentences)
