"""Parts of speech of the words in the descriptive corpus (demo/descriptions.py), without a tagger.

The corpus has a closed vocabulary: the names of 250 things, and the words of its patterns. A word of several parts of
speech ("watch", "present", "left") has the one that it mostly has there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache

from latentbank.demo.scenes import THINGS

OTHER = "other"
_WORDS = {
    "noun": "afternoon animal aunt background bees bowl box butter camera child close-up corner day dessert "
    "drawer driver edge field food forest front garden glass grass hand head holiday house journey "
    "leaves lunch man market meadow morning noon pattern pencil people photo picture plate poster "
    "present repair river road rust sand shade shelf shop side sky snow soup street sugar summer "
    "sunset table tourists tree trees trousers visitors waiter wall wardrobe watch water wind window "
    "workshop yard zoo",
    "verb": "are bought brings can drew eating flying get grows had hangs has heard hides is keeps laughs "
    "left lies look looking looks make moves needs packed parked passes picks planted points resting "
    "see seen shows smells stop took tries turned use wait walks was waters waves wearing",
    "adjective": "big blue brown cloudy dry favourite fresh gray green huge large last little next old orange pink "
    "purple rainy red small tall tiny wet white wild wooden yellow young",
    "adverb": "almost away close early far out straight there today up",
    "adposition": "above across around at before behind beside between by for from in into near of on over to under "
    "with",
    "pronoun": "he her his it its one she somebody that them they this us we you",
    "determiner": "a an every other some the",
    "conjunction": "and when",
    "number": "two",
}


def tag(words: Sequence[str]) -> list[str]:
    """Return the part of speech of each word; `OTHER` for words that the corpus does not have."""
    known = _known()
    return [known.get(word.casefold().removesuffix("'s"), OTHER) for word in words]


@cache
def _known() -> dict[str, str]:
    things = json.loads(THINGS.read_text(encoding="utf-8"))
    known = {part: "noun" for thing in things for part in thing["name"].casefold().split()}
    for kind, words in _WORDS.items():
        known |= dict.fromkeys(words.split(), kind)
    return known
