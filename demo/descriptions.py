"""A descriptive corpus: everyday sentences about the things in the demo's scenes.

The paper's corpus consists of short descriptions of pictures. No package has such a corpus, so this one is generated:
sentences as people write them under photos, equally many about each of the 250 things, the same for the same seed.

    python -m latentbank.demo.descriptions descriptions.txt --sentences 20000
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from latentbank.demo.classes import load_classes
from latentbank.demo.scenes import COLOURS, THINGS
from latentbank.files import write_whole

PICTURED = ("descriptions", "names")
"""Corpora of the demo's bank with sentences about what pictures show: the scenes' things, and what photos may show."""

# {thing} is the thing with its article, {name} without; {other} is another thing with its article.
ANYWHERE = (
    "There is {thing} in this picture.",
    "A photo of {thing} next to {other}.",
    "You can see {thing} and {other}.",
    "Somebody left {thing} beside {other}.",
    "The {name} is in front of {other}.",
    "In the background there is {thing}.",
    "A close-up of {thing} on a {colour} background.",
    "The picture shows {thing}, seen from {view}.",
    "Between the trees one can make out {thing}.",
    "A child points at the {name} and laughs.",
    "She drew {thing} with a {colour} pencil.",
    "He took a picture of the {name} {time}.",
    "On the poster behind them there is {thing}.",
    "Look at that {size} {name} over there.",
    "This {name} is {size} and {colour}.",
    "The {size} {name} was {place}.",
)
BY_KIND = {
    "animal": (
        "The {name} is resting {place}.",
        "A {size} {name} walks across the {ground}.",
        "The {name} looks straight into the camera.",
        "A {colour} {name} and its young {place}.",
        "Visitors watch the {name} at the zoo.",
        "The {name} was looking for food {time}.",
        "A wild {name} hides in the {ground}.",
        "Her favourite animal is the {name}.",
        "The {name} turned its head when it heard us.",
    ),
    "plant": (
        "The {name} grows {place}.",
        "A {colour} {name} in a garden {time}.",
        "She waters the {name} every morning.",
        "Bees are flying around the {name}.",
        "The wind moves the {name} {place}.",
        "They planted {thing} behind the house.",
    ),
    "food": (
        "A plate with {thing} on a wooden table.",
        "He is eating {thing} {time}.",
        "The {name} smells of butter and sugar.",
        "She bought {thing} at the market.",
        "The waiter brings {thing} and a glass of water.",
        "A bowl of soup, and {thing} for dessert.",
        "The {name} is fresh and {colour}.",
        "We had {thing} for lunch.",
    ),
    "vehicle": (
        "The {name} is parked {place}.",
        "A {colour} {name} passes by {time}.",
        "The driver of the {name} waves at us.",
        "An old {name} with rust on its side.",
        "People wait for the {name} to stop.",
        "The {name} needs repair before the journey.",
        "Two tourists get out of the {name}.",
    ),
    "clothes": (
        "She is wearing {thing} today.",
        "A man in {colour} trousers with {thing}.",
        "The {name} hangs in the wardrobe.",
        "He tries on {thing} in the shop.",
        "The {name} has a {colour} pattern.",
        "They packed {thing} for the holiday.",
    ),
    "tool": (
        "The {name} lies on the table {place}.",
        "He picks up the {name} with his left hand.",
        "She keeps the {name} in a drawer.",
        "An old {name} on a shelf in the workshop.",
        "They use the {name} almost every day.",
        "The {name} was a present from her aunt.",
        "A {colour} {name} in its box.",
    ),
}
FILLERS = {
    "place": (
        "near the river",
        "in the shade of a tree",
        "by the window",
        "behind the house",
        "at the edge of the field",
        "in front of a wall",
        "in a corner of the yard",
        "close to the road",
        "on the other side of the street",
        "under a cloudy sky",
    ),
    "time": (
        "in the afternoon",
        "at sunset",
        "early in the morning",
        "on a rainy day",
        "last summer",
        "at noon",
    ),
    "ground": ("tall grass", "snow", "dry sand", "wet leaves", "meadow", "forest"),
    "size": ("small", "large", "tiny", "big", "huge", "little"),
    "view": ("above", "the side", "behind", "far away", "the front"),
    "colour": tuple(COLOURS),
}


def describe(sentences: int, seed: int = 0) -> Iterator[str]:
    """Yield `sentences` different sentences about the things in turn; the same seed gives the same sentences."""
    things = json.loads(THINGS.read_text(encoding="utf-8"))
    random = np.random.default_rng(seed)
    made: set[str] = set()
    while len(made) < sentences:
        thing = things[len(made) % len(things)]
        patterns = ANYWHERE + BY_KIND[thing["kind"]]
        pattern = patterns[random.integers(len(patterns))]
        other = things[random.integers(len(things))]
        words = {name: choices[random.integers(len(choices))] for name, choices in FILLERS.items()}
        sentence = _spelled(
            pattern.format(
                thing=f"{thing['article']} {thing['name']}",
                name=thing["name"],
                other=f"{other['article']} {other['name']}",
                **words,
            )
        )
        if sentence not in made:
            made.add(sentence)
            yield sentence


def describe_classes(each: int, seed: int = 0) -> Iterator[str]:
    """Yield `each` sentences about each noun of the encoder's classes that is no thing of the scenes.

    Photos show other things than the scenes do, and a lens can find only words that its bank holds.
    """
    known = {thing["name"] for thing in json.loads(THINGS.read_text(encoding="utf-8"))}
    nouns = {one.noun: f"{one.article} {one.noun}" for one in load_classes() if one.noun not in known}
    random = np.random.default_rng(seed)
    names = sorted(nouns)
    for name in names:
        for pattern in random.choice(ANYWHERE, each, replace=False):
            words = {filler: choices[random.integers(len(choices))] for filler, choices in FILLERS.items()}
            other = nouns[names[random.integers(len(names))]]
            yield _spelled(pattern.format(thing=nouns[name], name=name, other=other, **words))


def _spelled(sentence: str) -> str:
    """Return a sentence with "an" before vowels."""
    return re.sub(r"\b([Aa]) (?=[aeio])", r"\1n ", sentence)


def main() -> None:
    """Write the corpus to a file, one sentence on each line."""
    parser = argparse.ArgumentParser(
        prog="python -m latentbank.demo.descriptions", description=__doc__.splitlines()[0]
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--sentences", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write_whole(given.file, ("\n".join(describe(given.sentences, given.seed)) + "\n").encode())


if __name__ == "__main__":
    main()
