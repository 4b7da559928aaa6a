"""The job: go through images, encode those that the bank lacks, and store their tokens while the next are encoded.

The bank itself records what is done, as for contexts: a job that was killed finds the images whose tokens are all
stored, by the digests of their files, and encodes the others.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from latentbank.bank.changes import change_entry
from latentbank.bank.images.bank import ImageBank
from latentbank.bank.images.points import patch_ids
from latentbank.bank.manifest import CorpusEntry, now
from latentbank.bank.upkeep import index_layers, index_waiting
from latentbank.bank.where import WhereImage
from latentbank.errors import CorpusError, ImageError, LatentBankError
from latentbank.ingest.images.encoding import EncodedImages, batches_ahead, encode_images, open_images
from latentbank.ingest.images.naming import NamedImages
from latentbank.ingest.images.reading import Broken, Reader, known_images
from latentbank.ingest.workers.shares import Heartbeat, Share, share_states
from latentbank.ingest.writer import Writer
from latentbank.memory import memory_kept
from latentbank.progress import Progress, Silent
from latentbank.text import listed

if TYPE_CHECKING:
    from latentbank.models.vision.tokens import VisualModel

BATCH = 8
"""Images in one forward pass."""
# Images that are expected of a dataset that does not tell how many it has.
_EXPECTED = 10_000


@dataclass(frozen=True)
class ImagesReport:
    """What an ingestion of images did.

    Attributes:
        corpus: name of the corpus of images.
        seen: images that were looked at.
        encoded: images whose tokens were stored by this job.
        found: images that were stored before.
        copies: images whose file is the same as another one's, which are stored once; also those that were renamed.
        renamed: images that the bank held under names that are no longer theirs; they have the new ones now.
        changed: images whose file was another one before; their old tokens are removed, unless this is a share.
        failed: images that could not be read.
        gone: images of the corpus that were not among those looked at; they stay.
        images: images that the bank holds of the corpus now.
        points: their visual tokens at each visual layer.
        encode_seconds: seconds spent on encoding and storing.
        index_seconds: seconds spent on indexing.
        share: the worker's share, such as "0/4"; None: all images.
        complete: whether the corpus is complete, which it is once all shares are.
    """

    corpus: str
    seen: int
    encoded: int
    found: int
    copies: int
    renamed: int
    changed: int
    failed: int
    gone: int
    images: int
    points: int
    encode_seconds: float
    index_seconds: float
    share: str | None = None
    complete: bool = True


def ingest_images(
    bank: ImageBank,
    images: NamedImages,
    model: VisualModel,
    progress: Progress | None = None,
    *,
    batch: int = BATCH,
    prompt: str | None = None,
    share: Share | None = None,
    broken: Broken | None = None,
) -> ImagesReport:
    """Store the visual tokens of images. Called again, it encodes only what is missing or has changed.

    It can be interrupted or killed at any moment: called again, it ends with the same bank. Images that it does not
    find any more stay in the bank.

    Args:
        bank: open for writing; made by `create_images` for this VLM.
        images: the images, with the name of their corpus.
        model: the VLM, loaded at least as deep as the deepest visual layer.
        progress: counts images.
        batch: images in one forward pass.
        prompt: the text beside each image; None: the model's own.
        share: the images that this worker stores, on a server while others store theirs; None: all.
        broken: called with the name of an image that cannot be read, and the error; None: the error is raised.

    Raises:
        CorpusError: the corpus was ingested with another prompt.
        ImageError: an image cannot be read, and `broken` is None; or none of them can.
        ModelError: a hidden state is not finite.
        BankUnavailable: the store failed; what was acknowledged is safe.
    """
    progress = progress or Silent()
    corpus, settings = images.corpus, {"prompt": prompt}
    entry = bank.corpora.get(corpus)
    if entry is not None and dict(entry.plan) != settings:
        before = entry.plan.get("prompt")
        raise CorpusError(
            f"The corpus '{corpus}' was ingested with {f'the prompt “{before}”' if before else 'no prompt of its own'}"
            "; use the same, or choose another name.",
            argument="prompt",
        )
    known = known_images(bank, corpus, progress)
    progress.stage("ingesting", "images")
    reader = Reader(known, broken or _raising, share)
    started = time.monotonic()
    job = _Job(bank, images, model, reader, progress, batch, prompt, share)
    job.run()
    encoded_at = time.monotonic()
    if reader.seen and not (job.encoded or reader.found or reader.copies):
        raise ImageError("None of the images could be read; the lines above say why.")
    complete = share is None or _all_done(bank, corpus)
    if complete:
        if entry is None or bank.corpora.get(corpus) != entry or not _is_whole(bank, entry):
            _remove_rest(bank, corpus, progress)
            index_layers(bank.store, bank.layers, progress)
            _complete(bank, corpus)
        else:
            index_waiting(bank.collections, progress)
    held = bank.count(where=WhereImage(corpus=corpus))
    return ImagesReport(
        corpus=corpus,
        seen=reader.seen,
        encoded=job.encoded,
        found=reader.found,
        copies=reader.copies,
        renamed=0 if share else len(reader.renamed()),
        changed=reader.changed,
        failed=reader.failed,
        gone=0 if share else reader.gone(),
        images=bank.count(where=WhereImage(corpus=corpus, token=0)),
        points=held,
        encode_seconds=encoded_at - started,
        index_seconds=time.monotonic() - encoded_at,
        share=str(share) if share else None,
        complete=complete,
    )


@dataclass
class _Job:
    """The images of one worker, encoded and stored; `encoded` counts them."""

    bank: ImageBank
    images: NamedImages
    model: VisualModel
    reader: Reader
    progress: Progress
    batch: int
    prompt: str | None
    share: Share | None
    encoded: int = 0

    def run(self) -> None:
        """Encode and store what is missing, then remove what it replaces."""
        total = self.images.total
        if total is not None and self.share is not None:
            total = len(range(self.share.index, total, self.share.of))
        writer = Writer(self.bank, total, self.progress)
        heartbeat = (
            Heartbeat(self.bank.store, self.images.corpus, self.share, total or 0, lambda: writer.written)
            if self.share
            else None
        )
        with heartbeat or nullcontext():
            with memory_kept(), writer:
                for encoded in self._encoded():
                    if not self.encoded:
                        self._announce()
                        self._expect(encoded)
                    self.encoded += encoded.counted
                    writer.put(encoded, self.reader.found + self.reader.copies + self.reader.failed)
            if self.share is None:  # what is nowhere any more, no single worker knows
                self._tidy()
            if heartbeat:
                heartbeat.done()

    def _encoded(self) -> Iterator[EncodedImages]:
        reader, corpus = self.reader, self.images.corpus
        opened = open_images(reader.missing(self.images), reader.fail)
        for part in batches_ahead(opened, self.batch):
            yield from encode_images(self.model, corpus, part, self.bank.layers, self.prompt, reader.fail)

    def _announce(self) -> None:
        """Record that the corpus is being ingested, before its first token is stored or removed."""
        new = _entry(self.images.corpus, {"prompt": self.prompt}, 0, 0, "")
        change_entry(
            self.bank.collections,
            new.name,
            lambda old: new if old is None else replace(old, complete=False, updated=new.updated),
            None,
        )

    def _expect(self, first: EncodedImages) -> None:
        """Postpone indexing until the other images are stored, too, which will have about as many tokens."""
        left = (self.images.total or _EXPECTED) - self.reader.found
        for layer in self.bank.layers:
            expected = self.bank.count(layer) + round(max(left, 1) * len(first.ids) / first.counted)
            self.bank.store.defer_index(layer, expected)

    def _tidy(self) -> None:
        """Give images their new names, and remove files that others have replaced, now that those are stored."""
        corpus, renamed, replaced = self.images.corpus, self.reader.renamed(), self.reader.replaced()
        if not (renamed or replaced):
            return
        self._announce()
        self.bank.rename(corpus, renamed)
        self.bank.remove([id_ for digest, tokens in replaced for id_ in patch_ids(corpus, digest, tokens)])
        self.bank.commit()


def _raising(name: str, error: LatentBankError) -> None:
    del name  # the message has it
    raise error


def _entry(corpus: str, plan: dict[str, str | None], images: int, points: int, digest: str) -> CorpusEntry:
    return CorpusEntry(corpus, digest, images, points, points, plan, updated=now())


def _all_done(bank: ImageBank, corpus: str) -> bool:
    """Return whether the last share is done, so that this worker has to complete the corpus."""
    return all(share.state == "done" for share in share_states(bank.store.read_shares(corpus)))


def _is_whole(bank: ImageBank, entry: CorpusEntry) -> bool:
    return entry.complete and bank.collections.stored_contexts(entry.name) == {entry.contexts}


def _remove_rest(bank: ImageBank, corpus: str, progress: Progress) -> None:
    """Remove tokens of images that are not whole: what kills have left of files that are not there any more."""
    where = WhereImage(corpus=corpus)
    counts = {bank.count(layer, where) for layer in bank.layers}
    if counts == {sum(image.tokens for image in bank.images(where))}:
        return
    whole = known_images(bank, corpus, progress).digests
    for layer in bank.layers:
        points = bank.store.scroll(layer, where, payloads=True)
        bank.remove([point.id for point in points if dict(point.payload or {})["digest"] not in whole])
    bank.commit()


def _complete(bank: ImageBank, corpus: str) -> None:
    """Record that every visual layer holds all tokens of the corpus's images.

    Raises:
        LatentBankError: the layers hold different numbers of them.
    """
    where = WhereImage(corpus=corpus)
    counts = {bank.count(layer, where) for layer in bank.layers}
    digest, images, points = hashlib.blake2b(digest_size=16), 0, 0
    for image in bank.images(where):
        digest.update(f"{image.digest} {image.image}\n".encode())
        images, points = images + 1, points + image.tokens
    if counts != {points}:
        raise LatentBankError(
            f"The visual layers hold {listed(f'{count:,}' for count in sorted(counts))} tokens of '{corpus}' instead "
            f"of {points:,}: something else changed them; ingest the images again."
        )

    def whole(old: CorpusEntry | None) -> CorpusEntry:
        if old is None:
            raise LatentBankError(
                f"The corpus '{corpus}' was dropped while it was ingested; ingest it again."
            )
        new = _entry(corpus, dict(old.plan), images, points, digest.hexdigest())
        return replace(new, complete=True)

    change_entry(bank.collections, corpus, whole, None)
    bank.collections.clear_shares(corpus)
