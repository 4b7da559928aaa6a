"""Images of the bank that show a word, asked from the page: the best patches of each, with small pictures."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from latentbank.bank.images.opening import list_images, open_images
from latentbank.errors import BankNotFound, LatentBankError, QueryError
from latentbank.models.vision.tokens import visual_fingerprint
from latentbank.query.images.search import How, ImageSearch
from latentbank.query.web.jobs import Job, JobProgress
from latentbank.text import public_name

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.query.images.results import RankedPatches
    from latentbank.query.web.vlms import Models

IMAGES = 24
"""The largest number of images in a gallery."""
PATCHES = 3
"""The largest number of patches that are marked in each."""

Queue = Callable[[str, Callable[[Job], str]], Job]
"""Takes a key and work that returns JSON; the result is kept by the key."""


class Galleries:
    """Searches what a bank holds of its VLMs' images; the images are open only while one is searched.

    Args:
        bank: the bank, open.
        models: the page's VLMs; None: there are none.
        queue: takes the work.
    """

    def __init__(self, bank: Bank, models: Models | None, queue: Queue) -> None:
        self._bank, self._models, self._queue = bank, models, queue

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

    def submit(self, word: str, model: str = "") -> Job:
        """Put a search for the images that show a word in the queue.

        Args:
            word: the word, or several that follow each other, which the bank holds.
            model: the VLM's name; "": the first one.

        Returns:
            Its job. Its `reading` is the key of the JSON of `gallery_data`.

        Raises:
            QueryError: there is no word, or no such VLM.
            TooBusy: too many jobs are waiting.
        """
        word = " ".join(word.split())
        if not word:
            raise QueryError("Write the word to find.")
        if self._models is None or (model and model not in self._models.names):
            raise QueryError(f"There is no vision-language model '{model}' on this page.")
        name = model or self._models.names[0]
        shown = sorted(map(repr, self._bank.shown_corpora.values()))
        stored = list_images(self._bank.name, self._bank.settings)
        asked = repr(("gallery", word, name, self._bank.version, shown, stored))
        key = hashlib.blake2b(asked.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
        return self._queue(key, lambda job: self._search(job, word, name))

    def _search(self, job: Job, word: str, name: str) -> str:
        assert self._models is not None
        model = self._models.get(name, lambda text: job.update(what=text)).model
        job.update(what=f"searching the images for “{word}”")
        bank = self._bank
        try:
            images = open_images(bank.name, bank.settings, visual_fingerprint(model))
        except BankNotFound:
            raise QueryError(f"The bank '{bank.name}' holds no images of {name}.") from None
        with images:
            job.check()
            how = How(limit=IMAGES, by_image=True, per_image=PATCHES)
            found = ImageSearch(images, bank, JobProgress(job)).where(word, how)
        job.check()
        return json.dumps(gallery_data(found), ensure_ascii=False, allow_nan=False)


def gallery_data(found: RankedPatches) -> dict[str, Any]:
    """Return ranked patches as page/gallery.js takes them: `images`, best first, each with its `patches`.

    A patch has its `row`, `column`, `box` in pixels of the image (None if its place is not known) and `score`; an image
    has its name, `corpus`, `size` in pixels, and its small `picture` as base64 of a JPEG ("" if none is stored).
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
