"""Write the paper's published figures as one CSV file, from the data behind the authors' plots.

The input is `paper_plots/data.json` of the authors' research repository (github.com/BennoKrojer/molmo; read at commit
8410b81). What is not in it (corpus size, pass@1, parts of speech, the averages of the ICML version) stands in their
REBUTTAL.md and JOURNAL.md at the same commit, and is written here.

    python -m benchmarks.published_figures data.json query/reproduction/data/published.csv
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from latentbank.query.reproduction.measured import COLUMNS

LENSES = {"contextual": "latent", "logitlens": "logit", "nn": "embedding"}
LLMS = {"olmo-7b": "olmo", "llama3-8b": "llama", "qwen2-7b": "qwen"}
ENCODERS = {"vit-l-14-336": "vit", "dinov2-large-336": "dino", "siglip": "siglip"}
SHELF = {
    "qwen2vl": "Qwen2-VL-7B",
    "molmo-7b": "Molmo-7B-D",
    "llava-1.5": "LLaVA-1.5-7B",
    "qwen2.5-vl-32b": "Qwen2.5-VL-32B",
    "llava-next-34b": "LLaVA-NeXT-34B",
    "molmo-72b": "Molmo-72B",
}
SHELF_ALIGNMENT = {"molmo-7b": "molmo-7b-d", "llava-1.5": "llava-1.5-7b"}
ABLATIONS = {"olmo-7b_vit-l-14-336_linear": "olmo-vit, linear"}
# Shares of interpretable tokens in %, means of the layers 0, 8, 16 and 31, by share of the corpus in %.
CORPUS = {
    "olmo-vit": {0.1: 57.5, 1: 70.2, 10: 76.0, 100: 71.2},
    "llama-siglip": {0.1: 59.5, 1: 54.8, 10: 58.8, 100: 61.5},
    "qwen-dino": {0.1: 58.2, 1: 76.8, 10: 82.8, 100: 82.0},
}
# Shares in %, means of nine layers, if the judge sees only the first word.
FIRST_WORD = {
    "embedding": {"olmo-vit": 41.6, "llama-siglip": 7.7, "qwen-dino": 3.6},
    "logit": {"olmo-vit": 18.6, "llama-siglip": 2.9, "qwen-dino": 6.8},
    "latent": {"olmo-vit": 52.4, "llama-siglip": 38.9, "qwen-dino": 56.2},
}
# Shares of the neighbors' words in %, over all models and layers.
SPEECH = {"noun": 45, "proper noun": 15, "verb": 12, "adjective": 5}
# The averages of the ICML version, over nine connectors and six models off the shelf.
ICML = {"latent": 68, "logit": 24, "embedding": 32}

Row = dict[str, Any]


def rows(data: dict[str, Any]) -> Iterator[Row]:
    """Yield a row for each published number."""
    for theirs, lens in LENSES.items():
        for model, shares in data[theirs].items():
            yield from _shares(_name(model), lens, shares)
        for key, model in SHELF.items():
            yield from _shares(model, lens, data[key][theirs])
        for key, model in ABLATIONS.items():
            found = data["ablations"][theirs].get(key, {})
            if len(found) == 9:  # only LatentLens was judged at all layers
                yield from _shares(model, lens, found)
    for lens, share in ICML.items():
        yield _row("shares", "average of 15 models", lens, "any", value=share / 100, source="journal")
    for model, sizes in CORPUS.items():
        for size, share in sizes.items():
            yield _row("corpus", model, "latent", "any", at=size, value=share / 100, source="rebuttal")
    for lens, models in FIRST_WORD.items():
        for model, share in models.items():
            yield _row("pass", model, lens, "any", at=1, value=share / 100, source="rebuttal")
    for kind, share in SPEECH.items():
        yield _row("speech", "average of 9 models", "latent", kind, value=share / 100, source="journal")
    yield from _tokens(data)
    for model, layers in data["layer_alignment"].items():
        yield from _alignment(_name(model), layers)
    for key, model in SHELF.items():
        yield from _alignment(model, data[f"{SHELF_ALIGNMENT.get(key, key)}_layer_alignment"])


def _tokens(data: dict[str, Any]) -> Iterator[Row]:
    """Yield norms, drift and cosines."""
    for theirs, kind in (("vision", "visual"), ("text", "text")):
        for model, layers in data["l2norm"][theirs].items():
            for layer, norms in layers.items():
                for statistic, name in (("median", "median"), ("max", "largest")):
                    yield _row("norms", _name(model), "", f"{kind}, {name}", layer, value=norms[statistic])
        drifts = {_name(model): layers for model, layers in data["token_similarity"][theirs].items()}
        drifts["Qwen2-VL-7B"] = data["qwen2vl_token_similarity"][theirs]
        for model, layers in drifts.items():
            for layer, cosine in layers.items():
                yield _row("drift", model, "", kind, layer, value=cosine)
    for model, layers in data["similarity_histograms"].items():
        for layer, found in layers.items():
            yield _row("cosines", _name(model), "latent", "median", layer, value=found["median"])
            for edge, count in zip(found["bin_edges"], found["counts"], strict=False):
                if count:
                    share = count / found["n_samples"]
                    yield _row("cosines", _name(model), "latent", "bin", layer, round(edge, 6), share)


def _shares(model: str, lens: str, shares: dict[str, float]) -> Iterator[Row]:
    for layer, share in shares.items():
        yield _row("shares", model, lens, "any", layer, value=share / 100)
    yield _row("shares", model, lens, "any", value=sum(shares.values()) / len(shares) / 100)


def _alignment(model: str, layers: dict[str, dict[str, int]]) -> Iterator[Row]:
    for layer, counts in layers.items():
        total = sum(counts.values())
        for bank_layer, count in counts.items():
            yield _row("alignment", model, "latent", "top 5", layer, bank_layer, count / total)


def _name(model: str) -> str:
    llm, encoder = model.split("+")
    return f"{LLMS[llm]}-{ENCODERS[encoder]}"


def _row(
    figure: str,
    model: str,
    lens: str,
    kind: str,
    layer: str | None = None,
    at: Any = None,
    value: float = 0.0,
    source: str = "data",
) -> Row:
    where = {"layer": None if layer is None else int(layer), "at": None if at is None else float(at)}
    return {
        "figure": figure,
        "model": model,
        "lens": lens,
        "kind": kind,
        **where,
        "value": float(f"{value:.5g}"),
        "source": source,
    }


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    given = parser.parse_args()
    with given.output.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows(json.loads(given.data.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
