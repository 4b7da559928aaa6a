"""Make a centred bank of what a bank of plain cosine holds, without running the LLM again.

    python -m benchmarks.centred_bank descriptive descriptive-centred --data-dir .demo/scores/banks

A centred bank subtracts means of unit vectors, and a bank of plain cosine stores the unit vectors themselves. So the
new bank holds what `ingest run --metric centred` would have stored, but for the means: here they are those of all
contexts, there of a sample.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from benchmarks.common import parser_of
from latentbank.bank.opening import open_bank
from latentbank.bank.rotation import unrotate
from latentbank.bank.upkeep import index_waiting
from latentbank.ingest.banks import create_bank
from latentbank.models.language.model import load_language_model
from latentbank.progress import shown

_BLOCK = 2048  # contexts that are read and stored at once


def main() -> None:
    """Copy the contexts."""
    parser = parser_of("benchmarks.centred_bank", __doc__)
    add = parser.add_argument
    add("plain", help="a bank of plain cosine")
    add("centred", help="name of the new bank")
    add("--data-dir", type=Path, required=True, help="folder of both")
    add("--llm", required=True, help="the bank's LLM: a folder or hub id")
    given = parser.parse_args()
    language = load_language_model(given.llm, deepest_layer=1)
    with (
        open_bank(given.plain, data_dir=given.data_dir, url="") as plain,
        create_bank(
            given.centred,
            language,
            plain.layers,
            data_dir=given.data_dir,
            url="",
            metric="centred",
        ) as centred,
        shown("centring", "contexts") as progress,
    ):
        seed = plain.manifest.rotation_seed
        means = {}
        for layer in plain.layers:
            total, count = np.zeros(plain.hidden_size), 0
            for point in plain.store.scroll(layer, vectors=True, payloads=False):
                assert point.vector is not None
                total += point.vector
                count += 1
            means[layer] = unrotate(total / count, seed)
        centred.fix_means(means)
        done, contexts = 0, sum(entry.contexts for entry in plain.corpora.values())
        for layer in plain.layers:
            points = plain.store.scroll(layer, vectors=True, payloads=True)
            while block := list(itertools.islice(points, _BLOCK)):
                vectors = np.stack([point.vector for point in block if point.vector is not None])
                payloads = [point.payload for point in block if point.payload is not None]
                centred.add(layer, [point.id for point in block], unrotate(vectors, seed), payloads)
                done += len(block)
                progress.update(done, contexts * len(plain.layers))
            centred.commit()
        index_waiting(centred, progress)
        for entry in plain.corpora.values():
            centred.record(entry)


if __name__ == "__main__":
    main()
