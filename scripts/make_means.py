"""The means of the demo VLM's visual tokens at every layer, kept beside its projector; what centred banks take.

python -m scripts.make_means
"""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image

from latentbank_progress import shown
from models.demo import load_demo
from models.scenes import VALIDATION, load_things, make_scene
from query.calibrate import measure_means
from query.centring import save_means

SCENES = 200  # held out from training, and not those of the evaluation


def main() -> None:
    """Measure and write them."""
    model = load_demo()
    assert model.means_file is not None  # it comes from a file
    things = load_things()
    with shown("measuring", "scenes") as progress:

        def images() -> Iterator[Image.Image]:
            for number, seed in enumerate(VALIDATION[:SCENES]):
                progress.update(number, SCENES)
                yield make_scene(things, seed).image

        means = measure_means(model, images(), range(model.num_layers + 1), what="scenes")
    save_means(model.means_file, means)
    print(f"The mean of {means.kind} is in {model.means_file}.")


if __name__ == "__main__":
    main()
