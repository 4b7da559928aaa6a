"""Images of the bank that show a word, or what a patch shows, asked from the page: the best patches of each image."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from latentbank.bank.images.opening import list_images, open_images
from latentbank.errors import BankNotFound, LatentBankError, QueryError
from latentbank.models.vision.sources import ImageSource
from latentbank.models.vision.tokens import visual_fingerprint
from latentbank.query.images.photo import states_of_patch
from latentbank.query.images.search import How, ImageSearch
from latentbank.query.web.jobs import GalleryRequest, Job, JobProgress
from latentbank.text import public_name

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.bank.images.bank import ImageBank
    from latentbank.query.images.results import RankedPatches
    from latentbank.query.images.space import Floats
    from latentbank.query.web.vlms import CachedVLM, Models

IMAGES = 24
"""The largest number of images in a gallery."""
PATCHES = 3
"""The largest number of patches that are marked in each."""

Queue = Callable[[bytes | None, str, Callable[[Job], str]], Job]
"""Takes the image of a request, a key, and work that returns JSON; the result is kept by the key."""


class Galleries:
    """Searches what a bank holds of its VLMs' images; the images are open only while one is searched.

    Args:
        bank: the bank, open.
        models: the page's VLMs; None: there are none.
        queue: takes the work.
    """

    def __init__(self, bank: Bank, models: Models | None, queue: Queue) -> None:
        self._bank, self._models, self._queue = bank, models, queue
        # By the images' stored name: what they were when their means were measured, and the means by visual layer.
        self._means: dict[str, tuple[str, dict[int, Floats]]] = {}

    def models(self) -> list[str]:
        """Return the names of the VLMs whose images the bank holds; other VLMs than the first are known by name."""
        if self._models is None:
            return []
        try:
            stored = list_images(self._bank.name, self._bank.settings)
        except LatentBankError:
            return []
        first = visual_fingerprint(self._models.first) if stored else ""
        named = {manifest.model for manifest in stored}
        return [
            name
            for place, name in enumerate(self._models.names)
            if (public_name(name) in named if place else first in {one.fingerprint for one in stored})
        ]

    def submit(self, request: GalleryRequest) -> Job:
        """Put a search for the images that show a word, or what a patch shows, in the queue.

        Returns:
            Its job. Its `reading` is the key of the JSON of `gallery_data`.

        Raises:
            QueryError: there is no such VLM.
            TooBusy: too many jobs are waiting.
        """
        if self._models is None or (request.model and request.model not in self._models.names):
            raise QueryError(f"There is no vision-language model '{request.model}' on this page.")
        request = replace(request, model=request.model or self._models.names[0])
        shown = sorted(map(repr, self._bank.shown_corpora.values()))
        stored = list_images(self._bank.name, self._bank.settings)
        key = request.key((self._bank.version, shown, stored))
        return self._queue(request.image, key, lambda job: self._search(job, request))

    def _search(self, job: Job, request: GalleryRequest) -> str:
        assert self._models is not None
        model = self._models.get(request.model, lambda text: job.update(what=text))
        sought = f"for “{request.word}”" if request.word else "for patches like this one"
        job.update(what=f"searching the images {sought}")
        bank = self._bank
        try:
            images = open_images(bank.name, bank.settings, model.visual_fingerprint())
        except BankNotFound:
            raise QueryError(f"The bank '{bank.name}' holds no images of {request.model}.") from None
        with images:
            job.check()
            search = ImageSearch(images, bank, JobProgress(job), self._known_means(images))
            found = _found(search, model, request)
        job.check()
        return json.dumps(gallery_data(found), ensure_ascii=False, allow_nan=False)

    def _known_means(self, images: ImageBank) -> dict[int, Floats]:
        """Return the means that were measured of these images, as long as they are the same ones."""
        now = repr((images.manifest, images.count()))
        before, means = self._means.get(images.stored, ("", {}))
        if before != now:
            means = {}
            self._means[images.stored] = now, means
        return means


def _found(search: ImageSearch, model: CachedVLM, request: GalleryRequest) -> RankedPatches:
    how = How(limit=IMAGES, by_image=True, per_image=PATCHES)
    if request.word:
        return search.where(request.word, how)
    if request.place is None:
        patch = search.images.patch(request.like)
        if patch is None:
            raise QueryError("This patch is not stored any more; ask for another one.")
        return search.like(patch, how)
    row, column, tile = request.place
    source = ImageSource(request.name, "", request.image)
    layers = search.visual_layers()
    states = states_of_patch(search.images, model, source, layers, row, column, tile)
    return search.like(states, how, f"{request.name}, row {row}, column {column}")


def gallery_data(found: RankedPatches) -> dict[str, Any]:
    """Return ranked patches as page/gallery.js takes them: `images`, best first, each with its `patches`.

    A patch has its `id`, `row`, `column`, `box` in pixels of the image (None if its place is not known) and `score`;
    an image has its name, `corpus`, `size` in pixels, and its small `picture` as base64 of a JPEG ("" if none is
    stored).
    """
    return {
        "question": found.question,
        "model": found.model,
        "visual_layers": list(found.visual_layers),
        "source": found.source,
        "correction": found.correction,
        "images": [
            {
                "image": group[0].image,
                "corpus": group[0].corpus,
                "size": list(group[0].size),
                "picture": base64.b64encode(found.picture(group[0]) or b"").decode(),
                "patches": [
                    {
                        "id": patch.id,
                        "row": patch.row,
                        "column": patch.column,
                        "box": None if patch.box is None else list(patch.box),
                        "score": round(patch.score, 4),
                    }
                    for patch in group
                ],
            }
            for group in found.images()
        ],
    }
