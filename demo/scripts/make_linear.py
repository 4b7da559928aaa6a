"""Train the demo's linear projector, which stands beside the demo's own in the reproduction of the paper.

It is trained as the demo's own is (demo/training.py), on fewer scenes and for fewer steps, so that it takes about ten
minutes on two cores.

    python -m latentbank.demo.scripts.make_linear
"""

from __future__ import annotations

import argparse
from pathlib import Path

from latentbank.demo import vlm as demo
from latentbank.demo.training import Recipe, install, train_demo

SCENES = 3_000
RECIPE = Recipe(region_steps=400, scene_steps=50)
_HELD_OUT = 64  # scenes on which its captions are scored


def main() -> None:
    """Train the projector and write it beside the demo's own."""
    parser = argparse.ArgumentParser(
        prog="python -m latentbank.demo.scripts.make_linear", description=str(__doc__).splitlines()[0]
    )
    parser.add_argument("--folder", type=Path, default=Path(".demo/training"))
    given = parser.parse_args()
    made = train_demo(
        given.folder, RECIPE, projector="linear", run="linear-short", scenes=SCENES, held_out=_HELD_OUT
    )
    install(made, demo.LINEAR)
    print(f"The projector is {demo.LINEAR}.")


if __name__ == "__main__":
    main()
