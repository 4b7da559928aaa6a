"""The means of the demo VLM's visual tokens at every layer, kept beside its projector; what centred banks take.

They are of tokens that show a thing: see `latentbank.query.evaluation.evaluate.object_means`.

    python -m latentbank.demo.scripts.make_means
"""

from __future__ import annotations

from latentbank.demo.scenes import VALIDATION, load_things, make_scene
from latentbank.demo.vlm import load_demo
from latentbank.progress import shown
from latentbank.query.evaluation.evaluate import grid_of, object_means
from latentbank.query.lenses.centring import save_means

SCENES = 200  # held out from training, and not those of the evaluation


def main() -> None:
    """Measure and write them."""
    model = load_demo()
    assert model.means_file is not None  # it comes from a file
    things, grid = load_things(), grid_of(model)
    scenes = [make_scene(things, seed, grid).labelled() for seed in VALIDATION[:SCENES]]
    with shown("measuring", "scenes") as progress:
        means = object_means(model, scenes, range(model.num_layers + 1), progress=progress)
    save_means(model.means_file, means)
    print(f"The mean of {means.kind} is in {model.means_file}.")


if __name__ == "__main__":
    main()
