"""How long `images words` takes, and how much memory, as the collection grows.

    python -m benchmarks.image_words --data-dir .demo/scores/banks --work .bench/images --images 500,2000

It reads the visual tokens of the demo's scenes at layer 16, which `benchmarks.image_search tokens` has encoded, and
copies of them with noise, through LatentLens at the middle bank layers, and stores the words. Each number of images has
a process and a bank of its own. What the lens takes alone is measured inside the pass; the rest is reading what is
stored, storing words, committing and indexing.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.common import (
    PeakMemory,
    Row,
    answer_child,
    in_child,
    machine,
    memory,
    mib,
    parser_of,
    show,
    write_json,
)
from benchmarks.image_search import LAYER, TOKENS, bank_settings, store_tokens
from latentbank.bank.images.opening import open_images
from latentbank.bank.opening import open_bank
from latentbank.bank.points import Neighbor
from latentbank.query.images.naming import name_patches
from latentbank.query.lenses.base import Queries
from latentbank.query.lenses.latent import LatentLens


class TimedLens:
    """A lens whose searches are timed; `seconds` is their sum."""

    def __init__(self, lens: LatentLens) -> None:
        self.bank, self.seconds, self._lens = lens.bank, 0.0, lens

    def read(self, queries: Queries, top_k: int) -> list[list[Neighbor]]:
        """Return what the lens finds."""
        started = time.monotonic()
        found = self._lens.read(queries, top_k)
        self.seconds += time.monotonic() - started
        return found


def main() -> None:
    """Name each number of images, print the table and write JSON."""
    if answer_child({"words": words}, sys.argv[1:]):
        return
    parser = parser_of("benchmarks.image_words", __doc__)
    add = parser.add_argument
    add("--data-dir", type=Path, required=True, help="folder of the banks of contexts")
    add("--bank", default="descriptive")
    add("--work", type=Path, required=True, help="folder of benchmarks.image_search")
    add("--images", default="500,2000")
    add("--json", type=Path, help="file for the results")
    given = parser.parse_args()
    counts = sorted(int(count) for count in given.images.split(","))
    asked = {"data_dir": given.data_dir, "bank": given.bank, "work": given.work}
    found = {count: in_child("benchmarks.image_words", "words", count=count, **asked) for count in counts}
    rows = []
    for count, result in found.items():
        seconds, lens = result["seconds"], result["lens_seconds"]
        rows.append(
            Row(
                f"{count:,} images: seconds",
                f"{lens:.1f}",
                f"{seconds:.1f}",
                count / seconds,
                " images a second",
                share=lens / seconds,
                limit="the lens's own searches",
            )
        )
        shown = f"{mib(result['anonymous'])} ({mib(result['resident'])} with mapped files)"
        rows.append(Row("... peak memory", "", shown, None))
    sizes = {
        "bank": given.bank,
        "bank layers": found[counts[0]]["bank_layers"],
        "visual tokens an image": TOKENS,
    }
    where = machine()
    show("Words of a collection", sizes, rows, where, ("the lens alone", "latentbank"))
    write_json(given.json, sizes, rows, {str(count): result for count, result in found.items()}, where)


def words(data_dir: str, bank: str, work: str, count: int) -> dict[str, Any]:
    """Name the tokens of so many images in a bank of their own, and return seconds and bytes."""
    folder, name = Path(work), f"words-{count}"
    with open_bank(bank, data_dir=data_dir, url="") as contexts:
        if not (folder / "banks" / name).is_dir():
            store_tokens(folder, name, contexts.manifest, count)
        lens: Any = TimedLens(LatentLens(contexts))
        layers = contexts.choose_layers("mid")
        before = memory()
        with open_images(name, bank_settings(folder)) as images, PeakMemory() as peak:
            started = time.monotonic()
            told = name_patches(images, lens, LAYER)
            seconds = time.monotonic() - started
    for stored in (folder / "banks").glob(f"{name}*"):
        shutil.rmtree(stored)
    return {
        "seconds": seconds,
        "lens_seconds": lens.seconds,
        "read": told.read,
        "bank_layers": layers,
        "anonymous": peak.anonymous - before.anonymous,
        "resident": peak.resident - before.resident,
    }


if __name__ == "__main__":
    main()
