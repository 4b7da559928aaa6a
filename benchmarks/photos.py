"""Words on photos: how often a lens names what the encoder's own classifier sees in a visual token.

    python -m benchmarks.photos /usr/share/backgrounds --data-dir BANKS --before OLD.safetensors --json photos.json

The photos come in packages: the demo's cat, those of scikit-image and scikit-learn where they are installed, and those
of Debian's lomiri-wallpapers-16.04, lomiri-wallpapers-20.04, mate-backgrounds and plasma-workspace-wallpapers in the
folders that are given. No projector was trained on any of them (demo/schooling.py). The encoder's ImageNet classifier,
applied to a token alone, gives the truth where its probability is at least `--sure`: the class is named by its noun,
its whole name or its last word (demo/data/classes.json). A token is named if one of the first five distinct words names
it. The control scores a token by the words of a token of the next photo.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.common import Row, machine, parser_of, show, write_json
from latentbank.bank.opening import open_bank
from latentbank.demo.classes import ImageClass, load_classes
from latentbank.demo.teacher import SURE, class_probabilities
from latentbank.demo.vlm import PHOTO, PROJECTOR, load_demo
from latentbank.models.composite.model import CompositeVLM
from latentbank.models.vision.images import open_image
from latentbank.query.evaluation.evaluate import read_patches
from latentbank.query.lenses.base import Lens
from latentbank.query.lenses.latent import LatentLens

PACKAGES = {
    "skimage": "astronaut.png brick.png camera.png coffee.png coins.png grass.png gravel.png hubble_deep_field.jpg "
    "moon.png motorcycle_left.png retina.jpg rocket.jpg",
    "sklearn": "china.jpg flower.jpg",
}
"""Photos of Python packages, by package; scikit-image's cat is the demo's."""
WALLPAPERS = """
    Bridge_by_Sander_Klootwijk Dragonfly_by_Bolly Picture_0B_by_freespace Picture_1A_by_freespace
    Wine_by_Jakkub_Mede aitzgorri_by_Aitzol_Berasategi free_by_Peter_Nerlich friends_by_Aitzol_Berasategi
    greentock_by_Peter_Nerlich life_by_Aitzol_Berasategi picosdeeuropa_by_Aitzol_Berasategi
    seeding_by_Clements_Engelhardt sunset_by_Aitzol_Berasategi Kleiber_by_Lukas_Baubkus Aqua Blinds Dune
    FreshFlower Garden GreenMeadow LadyBird RainDrops Storm TwoWings Wood YellowFlower BytheWater ColdRipple
    ColorfulCups DarkestHour EveningGlow FallenLeaf Grey Kite OneStandsOut Path summer_1am
    """.split()  # noqa: SIM905 (shorter)
"""Photos among Debian's wallpapers: names of files, or of folders in Plasma's."""
LAYERS = "0,4,8,12,16,20"
TOP_K = 5


@dataclass(frozen=True)
class Sure:
    """The tokens of which the teacher is sure.

    Attributes:
        photos: number of each token's photo, int64 `[tokens]`.
        tokens: its place in the photo, int64 `[tokens]`.
        classes: what it shows.
    """

    photos: NDArray[np.int64]
    tokens: NDArray[np.int64]
    classes: tuple[ImageClass, ...]

    def next_photo(self) -> list[int]:
        """Return for each token one of the next photo that has any: the control."""
        own = {photo: np.flatnonzero(self.photos == photo) for photo in np.unique(self.photos).tolist()}
        after = dict(zip(own, [*list(own)[1:], next(iter(own))], strict=True))
        places = [int(np.flatnonzero(own[photo] == at)[0]) for at, photo in enumerate(self.photos.tolist())]
        others = [own[after[photo]] for photo in self.photos.tolist()]
        return [int(rows[place % len(rows)]) for place, rows in zip(places, others, strict=True)]


def photos_in(folders: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Yield name and path of the photos that are there."""
    yield "cat", PHOTO
    for package, files in PACKAGES.items():
        spec = importlib.util.find_spec(package)
        places = [] if spec is None else list(spec.submodule_search_locations or ())
        for name in files.split():
            for place in places:
                if found := sorted(Path(place).rglob(name)):
                    yield Path(name).stem, found[0]
    for name in WALLPAPERS:
        found = [path for folder in folders for path in sorted(folder.rglob(f"{name}.jpg"))]
        found += [
            path
            for folder in folders
            for path in sorted(folder.rglob("2560x1600.jpg"))
            if path.parts[-4] == name
        ]
        if found:
            yield name, found[0]


def sure_tokens(model: CompositeVLM, images: Sequence[Image.Image], least: float) -> Sure:
    """Return the tokens of which the teacher is sure."""
    encoder: Any = model.encoder
    chances = np.stack([class_probabilities(encoder, encoder.encode([image]))[0] for image in images])
    photos, tokens = np.nonzero(chances.max(-1) >= least)
    classes = load_classes()
    return Sure(photos, tokens, tuple(classes[at] for at in chances.argmax(-1)[photos, tokens]))


def words_of(
    model: CompositeVLM, lens: Lens, images: Sequence[Image.Image], sure: Sure, layers: Sequence[int]
) -> dict[int, list[list[str]]]:
    """Return for each visual layer the first five distinct words of each sure token."""
    chosen: dict[int, list[NDArray[np.float32]]] = {layer: [] for layer in layers}
    for photo in np.unique(sure.photos).tolist():
        (tokens,) = model.visual_tokens([images[photo]], layers)
        for layer in layers:
            chosen[layer].append(tokens.states[layer][sure.tokens[sure.photos == photo]].float().numpy())
    return {
        layer: [
            [neighbor.word for neighbor in row]
            for row in read_patches(lens, None, layer, np.concatenate(chosen[layer]))[1]
        ]
        for layer in layers
    }


def named(words: Sequence[Sequence[str]], classes: Sequence[ImageClass]) -> NDArray[np.bool_]:
    """Return whether each token's words name its class, `[tokens]`."""
    return np.array([one.named_by(own) for own, one in zip(words, classes, strict=True)])


def measure(
    model: CompositeVLM, lens: Lens, images: Sequence[Image.Image], sure: Sure, layers: Sequence[int]
) -> dict[str, Any]:
    """Return the shares of tokens that are named by layer, of the control, and of each photo."""
    words = words_of(model, lens, images, sure, layers)
    other = sure.next_photo()
    hits = {layer: named(words[layer], sure.classes) for layer in layers}
    control = {layer: named([words[layer][at] for at in other], sure.classes) for layer in layers}
    best = max(layers, key=lambda layer: hits[layer].mean())
    photos = np.unique(sure.photos).tolist()
    shares = np.array([hits[best][sure.photos == photo].mean() for photo in photos])
    return {
        "named": {layer: round(100 * float(hits[layer].mean()), 1) for layer in layers},
        "control": {layer: round(100 * float(control[layer].mean()), 1) for layer in layers},
        "best": best,
        "mean of photos": round(100 * float(shares.mean()), 1),
        "of photo": dict(zip(photos, (100 * shares).round(1).tolist(), strict=True)),
        "words": {
            photo: [words[best][at] for at in np.flatnonzero(sure.photos == photo)[:3]] for photo in photos
        },
    }


def main() -> None:
    """Measure, and print the tables."""
    parser = parser_of("benchmarks.photos", __doc__)
    parser.add_argument("folders", type=Path, nargs="*", help="folders with Debian's wallpapers")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the banks")
    parser.add_argument("--bank", default="demo")
    parser.add_argument("--llm", type=Path, help="folder that keeps the demo's LLM")
    parser.add_argument("--projector", type=Path, default=PROJECTOR)
    parser.add_argument("--before", type=Path, help="another projector, to compare with")
    parser.add_argument("--visual-layers", default=LAYERS)
    parser.add_argument("--sure", type=float, default=SURE, help="least probability of the teacher's class")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    layers = [int(layer) for layer in asked.visual_layers.split(",")]
    found = list(photos_in(asked.folders))
    images = [open_image(path) for _, path in found]
    measured: dict[str, Any] = {}
    with open_bank(asked.bank, data_dir=asked.data_dir) as bank:
        lens = LatentLens(bank, "all")
        for side, projector in (("before", asked.before), ("now", asked.projector)):
            if projector is not None:
                model = load_demo(asked.llm, projector=projector, deepest_layer=max(layers))
                sure = sure_tokens(model, images, asked.sure)
                measured[side] = measure(model, lens, images, sure, layers)
    rows = [
        Row(
            f"visual layer {layer}",
            *(
                f"{measured[side]['named'][layer]} ({measured[side]['control'][layer]})"
                if side in measured
                else ""
                for side in ("before", "now")
            ),
            measured["now"]["named"][layer],
            unit=" %",
        )
        for layer in layers
    ]
    sizes = {
        "photos": len(images),
        "of which some token is sure": len(np.unique(sure.photos)),
        "tokens sure": len(sure.tokens),
        "bank": asked.bank,
    }
    where = machine()
    show(
        "sure tokens of photos that are named, in % (words of the next photo)",
        sizes,
        rows,
        where,
        ("before", "now"),
    )
    for photo, share in measured["now"]["of photo"].items():
        own = np.flatnonzero(sure.photos == photo)
        kinds = sorted({sure.classes[at].name for at in own}, key=lambda name: name)
        print(
            f"{found[photo][0]}: {len(own)} tokens, {share} % (before: "
            f"{measured.get('before', {}).get('of photo', {}).get(photo, '-')} %); {', '.join(kinds)[:90]}; "
            f"words: {measured['now']['words'][photo][0]}"
        )
    write_json(asked.json, sizes, rows, measured, where)


if __name__ == "__main__":
    main()
