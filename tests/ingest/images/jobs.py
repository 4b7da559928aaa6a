"""Jobs that store images of a VLM without weights, in this process or in one of their own that can be killed."""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import latentbank.ingest.writer
from latentbank.bank.images.bank import ImageBank
from latentbank.bank.images.opening import create_images
from latentbank.bank.opening import create_bank
from latentbank.bank.settings import Settings, load_settings
from latentbank.errors import ImageError
from latentbank.ingest.images.job import ImagesReport, ingest_images
from latentbank.ingest.images.naming import NamedImages, named_images
from latentbank.ingest.workers.shares import Share
from latentbank.models.vision.sources import find_images
from latentbank.models.vision.tokens import VisualTokens
from tests import (
    children,
    real_server,  # noqa: F401 - names collections on a real server, in child processes too
)

WIDTH, ROWS, COLUMNS = 32, 2, 3
LAYERS = (0, 4)
FINGERPRINT = "0123456789abcdef" * 2


class ColourVLM:
    """A VLM whose tokens are patches' colours times a fixed matrix for each layer; it refuses images of one pixel."""

    name, revision, num_layers, hidden_size, means_file, geometry = "colours", None, 8, WIDTH, None, "exact"

    def __init__(self) -> None:
        self.read: list[int] = []  # images in each forward

    def visual_fingerprint(self) -> str:
        return FINGERPRINT

    def visual_tokens(
        self, images: Sequence[Image.Image], layers: Sequence[int], prompt: str | None = None
    ) -> list[VisualTokens]:
        if any(image.size == (1, 1) for image in images):
            raise ImageError("The image has one pixel.")
        self.read.append(len(images))
        return [self._tokens(image, layers) for image in images]

    def _tokens(self, image: Image.Image, layers: Sequence[int]) -> VisualTokens:
        small = np.asarray(image.resize((COLUMNS * 2, ROWS * 2), Image.Resampling.BOX), np.float32) - 100.5
        patches = small.reshape(ROWS, 2, COLUMNS, 2, 3).transpose(0, 2, 1, 3, 4).reshape(ROWS * COLUMNS, 12)
        rows, columns = (part.ravel() for part in np.mgrid[:ROWS, :COLUMNS])
        width, height = image.width / COLUMNS, image.height / ROWS
        corners = [columns * width, rows * height, (columns + 1) * width, (rows + 1) * height]
        states = {
            layer: torch.from_numpy(
                patches @ np.random.default_rng(layer).normal(size=(12, WIDTH)).astype(np.float32)
            )
            for layer in layers
        }
        tiles = np.zeros(ROWS * COLUMNS, np.int64)
        return VisualTokens(states, np.stack(corners, 1).astype(np.float32), rows, columns, tiles, image.size)


def picture(seed: int, size: tuple[int, int] = (30, 20)) -> Image.Image:
    """An image of random colours."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@dataclass(frozen=True)
class Site:
    """Where images and banks are: all that another process has to know."""

    photos: Path
    banks: Path
    url: str = ""
    grpc_port: int = 6334

    @property
    def settings(self) -> Settings:
        return load_settings(
            url=self.url, grpc_port=self.grpc_port, data_dir=self.banks, graph_from=150, retry_wait=0.01
        )

    def at(self, banks: Path) -> Site:
        """The same images, and other banks."""
        return replace(self, banks=banks, url="")

    def bank(self) -> ImageBank:
        """Open the images of the bank `bank`, creating both."""
        given: dict[str, Any] = {"num_layers": 8, "hidden_size": WIDTH}
        create_bank("bank", self.settings, model="llm", fingerprint="f00d", layers=[2], **given).close()
        return create_images(
            "bank", self.settings, model="colours", fingerprint=FINGERPRINT, layers=LAYERS, **given
        )

    def images(self, corpus: str | None = None) -> NamedImages:
        """The images."""
        return named_images(find_images([self.photos]), [self.photos], corpus)

    def job(self, vlm: ColourVLM | None = None, share: Share | None = None, **given: Any) -> ImagesReport:
        """Run the whole job; images that cannot be read are left out."""
        named = given.pop("images", None) or self.images()
        with self.bank() as bank:
            return ingest_images(
                bank, named, vlm or ColourVLM(), batch=4, share=share, broken=lambda *_: None, **given
            )


def _work(site: Site, name: str, times: int, line: Connection) -> None:
    """Run the job, and say when it begins something for the nth time."""
    latentbank.ingest.writer.COMMIT_SECONDS = 0.0  # after every batch
    with site.bank() as bank:
        method, calls = getattr(bank.store, name), itertools.count(1)  # of two threads at once, on a server

        def spied(*given: Any, **named: Any) -> Any:
            if next(calls) == times:
                line.send(True)
                time.sleep(0.002)
            return method(*given, **named)

        setattr(bank.store, name, spied)
        ingest_images(bank, site.images(), ColourVLM(), batch=4, broken=lambda *_: None)
    line.send(False)


@functools.cache
def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.ingest.images.jobs"])
    children.start_fork_server()
    return context


def kill_job(site: Site, name: str, times: int) -> None:
    """Run the job in another process, killed with signal 9 when it begins `name` for the nth time."""
    ours, theirs = _context().Pipe(duplex=False)
    process = _context().Process(target=_work, args=(site, name, times, theirs))
    process.start()
    theirs.close()
    assert ours.recv(), f"it has finished before it began {name} {times} times"
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    ours.close()
