"""Measure the means of the demo VLM's visual tokens at every layer, which queries of centred banks subtract.

They are the means of tokens that show a thing (see `latentbank.query.evaluation.patches.object_means`), and are kept
beside the projector.

    python -m latentbank.demo.scripts.make_means
"""

from __future__ import annotations

import argparse

from latentbank.demo.scenes import VALIDATION, load_things, make_scene
from latentbank.demo.vlm import load_demo
from latentbank.progress import shown
from latentbank.query.evaluation.patches import grid_of, object_means
from latentbank.query.lenses.centring import save_means

SCENES = 200  # held-out scenes, other ones than those of the evaluation


def main() -> None:
    """Measure the means and write them beside the projector."""
    parser = argparse.ArgumentParser(
        prog="python -m latentbank.demo.scripts.make_means", description=str(__doc__).splitlines()[0]
    )
    parser.parse_args()
    model = load_demo()
    assert model.means_file is not None  # the projector comes from a file
    things, grid = load_things(), grid_of(model)
    scenes = [make_scene(things, seed, grid).labelled() for seed in VALIDATION[:SCENES]]
    with shown("measuring", "scenes") as progress:
        means = object_means(model, scenes, range(model.num_layers + 1), progress=progress)
    save_means(model.means_file, means)
    print(f"Wrote the mean of {means.kind} to {model.means_file}.")


if __name__ == "__main__":
    main()
