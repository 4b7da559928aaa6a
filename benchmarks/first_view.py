"""What the page shows at first, on scenes whose content is known: which words, and which layer.

    python -m benchmarks.first_view --data-dir .demo/banks --llm .demo/SmolLM2-135M-Instruct --json first.json

Held-out scenes of VALIDATION are read by LatentLens with five neighbors, as the page reads them. The rules are the
page's own: its modules run in a headless Chromium (LATENTBANK_BROWSER, or the one in PATH) and say for each reading
which tokens have something to say, and at which layer most is said.

- Words: the share of tokens whose word is shown; of shown words, and of all, the share that names a thing that covers
  at least a tenth of the token; and the share of all right words that are shown. All at the layer shown first.
- Layer: of tokens of which a thing covers at least a fifth, the share whose best word names it: at the layer shown
  first, at the one layer that is best over all scenes, and at each scene's own best layer (which no rule can know).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import machine

SEEN, OBJECT = 0.1, 0.2  # smallest shares of a token that a thing covers
_RULES = """async (data) => {
  const { openReading } = await import("./reading.js");
  const reading = openReading(data);
  const [lens] = data.lenses;
  const shown = data.layers.map((_, layer) => [...reading.saying(lens, layer).tokens]);
  return { best: reading.bestLayer(lens), shown };
}"""


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_view", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="Folder of the banks.")
    parser.add_argument("--bank", default="demo")
    parser.add_argument("--llm", help="Folder of the demo's LLM.")
    parser.add_argument("--layers", default="0,4,8,15", help="Visual layers.")
    parser.add_argument("--bank-layers", default="mid")
    parser.add_argument("--scenes", type=int, default=80)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    layers = [int(layer) for layer in given.layers.split(",")]
    found = measure(given, layers)
    where = machine()
    print(
        f"{given.scenes} scenes, bank {given.bank}, bank layers {given.bank_layers}, layers {given.layers}; {where}"
    )
    for name, value in found.items():
        print(f"{name:45} {value}")
    if given.json:
        given.json.write_text(json.dumps({"machine": where, **found}, indent=1))


def measure(given: argparse.Namespace, layers: Sequence[int]) -> dict[str, Any]:
    """Read the scenes, ask the page's modules, and return the shares."""
    from latentbank.bank.opening import open_bank
    from latentbank.demo.scenes import VALIDATION, load_things, make_scene
    from latentbank.demo.vlm import load_demo
    from latentbank.query.lenses.latent import LatentLens
    from latentbank.query.reading.visual import read_images
    from latentbank.query.web.data import page_data

    things = load_things()
    scenes = [make_scene(things, seed) for seed in VALIDATION[3000 : 3000 + given.scenes]]
    vlm = load_demo(given.llm, deepest_layer=max(layers))
    bank_layers = given.bank_layers
    if bank_layers[0].isdigit():
        bank_layers = [int(layer) for layer in bank_layers.split(",")]
    with open_bank(given.bank, data_dir=given.data_dir, url="") as bank:
        lens = LatentLens(bank, bank_layers)
        readings = list(read_images(vlm, [scene.image for scene in scenes], [lens], layers, top_k=5))
    said = asked([page_data(reading) for reading in readings])
    right = [
        [_right(scene, reading.at(layer)) for layer in layers]
        for scene, reading in zip(scenes, readings, strict=True)
    ]
    objects = [np.max([thing.coverage for thing in scene.objects], axis=0) >= OBJECT for scene in scenes]
    shown = [
        np.isin(np.arange(len(own)), rules["shown"][rules["best"]])
        for own, rules in zip(objects, said, strict=True)
    ]
    first = [own[rules["best"]] for own, rules in zip(right, said, strict=True)]
    named = np.array(
        [
            [own[covers].mean() for own in by_layer]
            for by_layer, covers in zip(right, objects, strict=True)
            if covers.any()
        ]
    )
    best = [rules["best"] for rules, covers in zip(said, objects, strict=True) if covers.any()]
    seen, true = np.concatenate(shown), np.concatenate(first)
    return {
        "tokens whose word is shown": round(float(seen.mean()), 3),
        "right, of the words shown": round(float(true[seen].mean()), 3),
        "right, of all words": round(float(true.mean()), 3),
        "right words that are shown": round(float(true[seen].sum() / true.sum()), 3),
        "named, layer shown first": round(float(named[np.arange(len(named)), best].mean()), 3),
        "named, the best one layer": round(float(named.mean(axis=0).max()), 3),
        "named, each layer": {
            layer: round(float(share), 3) for layer, share in zip(layers, named.mean(axis=0), strict=True)
        },
        "named, each scene's best layer": round(float(named.max(axis=1).mean()), 3),
        "layers shown first": {layer: best.count(at) for at, layer in enumerate(layers)},
    }


def _right(scene: Any, tokens: Sequence[Any]) -> Any:
    """Return for each token whether its best word names a thing that covers part of it."""
    from latentbank.query.evaluation.scoring import names

    return np.array(
        [
            bool(token.neighbors)
            and any(
                thing.coverage[at] >= SEEN and names(token.neighbors[0].word, thing.name)
                for thing in scene.objects
            )
            for at, token in enumerate(tokens)
        ]
    )


def asked(data: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what the page's modules say of readings: {best: place of a layer, shown: tokens by layer}."""
    from playwright.sync_api import sync_playwright

    from latentbank.query.web.file import PAGE

    browsers = ("chromium", "chromium-browser", "google-chrome")
    named = os.environ.get("LATENTBANK_BROWSER") or next(filter(None, map(shutil.which, browsers)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=named, args=["--no-sandbox"])
        page = browser.new_page()

        def serve(route: Any) -> None:
            name = route.request.url.rsplit("/", 1)[-1]
            kind, body = (
                ("text/javascript", (PAGE / name).read_bytes()) if name else ("text/html", b"<!doctype html>")
            )
            route.fulfill(body=body, content_type=kind)

        page.route("**/*", serve)
        page.goto("http://page.invalid/")
        found = [page.evaluate(_RULES.replace("./reading.js", "/reading.js"), one) for one in data]
        browser.close()
    return found


if __name__ == "__main__":
    main()
