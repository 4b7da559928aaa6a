"""Write the names of the encoder's 1,000 ImageNet classes, each with the noun of everyday speech that names it.

The classes' names are those of torchvision (`torchvision.models`, BSD 3-clause), which are ImageNet's (ILSVRC 2012).
The noun is the last word of a name, unless `SHARED` has another: a breed of dog is a dog, a tabby is a cat, a beach
wagon is a car.

    python -m latentbank.demo.scripts.make_classes
"""

from __future__ import annotations

import argparse
import json

from latentbank.demo.classes import CLASSES
from latentbank.files import write_whole

SHARED = {
    "fish": "0 389 392-397",
    "shark": "4",
    "bird": "10-14 16 17 19-21 91 92 93 95 129 135-143",
    "newt": "27",
    "salamander": "29",
    "frog": "30",
    "turtle": "33 36",
    "lizard": "41 42 45 48",
    "dinosaur": "51",
    "snake": "61-68",
    "fossil": "69",
    "spider": "70 75 76",
    "grouse": "81 83",
    "parrot": "87-90",
    "duck": "97 98",
    "elephant": "101",
    "worm": "110 111 329",
    "shell": "112 116 117",
    "bug": "126",
    "crab": "125",
    "heron": "133",
    "crane": "134",
    "seal": "150",
    "dog": "151-268 274 275",
    "cat": "281-285",
    "insect": "313 317 318",
    "beetle": "307",
    "dragonfly": "320",
    "butterfly": "321-326",
    "rabbit": "332",
    "horse": "339",
    "pig": "341",
    "sheep": "348 349",
    "goat": "350",
    "antelope": "351 352",
    "ferret": "358",
    "gibbon": "369",
    "monkey": "370 371 374 375 377 378 380",
    "lemur": "383 384",
    "salmon": "391",
    "robe": "399 887",
    "ship": "403 628 780",
    "airplane": "404 895",
    "vehicle": "408 586",
    "beehive": "410",
    "bin": "412",
    "pen": "418",
    "bandage": "419",
    "railing": "421",
    "wheelbarrow": "428",
    "cradle": "431",
    "car": "436 511 661 751",
    "lighthouse": "437",
    "hat": "439 452 808",
    "tower": "442",
    "bicycle": "444 671",
    "sled": "450 537",
    "cap": "455",
    "plaque": "458",
    "bra": "459",
    "armor": "461 490 524",
    "taxi": "468",
    "pot": "469 544",
    "tool": "477",
    "machine": "480 550",
    "phone": "487 528 707",
    "dresser": "493",
    "theater": "498",
    "knife": "499 623",
    "shoe": "502 630 788",
    "candy": "509",
    "cloth": "533",
    "mat": "539",
    "television": "548",
    "feather": "552 749",
    "cabinet": "553",
    "boat": "554 814 871 484",
    "truck": "555 717",
    "fireplace": "556",
    "flag": "557",
    "bed": "564",
    "train": "547 565 705 820",
    "mask": "570 691",
    "cart": "575 690",
    "hairpin": "584",
    "dryer": "589",
    "disk": "592",
    "axe": "596",
    "skirt": "601 655 689",
    "pumpkin": "607",
    "jeans": "608",
    "rickshaw": "612",
    "speaker": "632",
    "lens": "633",
    "lumber": "634",
    "bag": "636",
    "swimsuit": "638 639 842",
    "manhole": "640",
    "match": "644",
    "pole": "645",
    "stone": "649",
    "bus": "654 874",
    "van": "656",
    "trailer": "660",
    "scooter": "665",
    "trap": "674",
    "flute": "684 699",
    "wheel": "694",
    "pencil": "709",
    "helmet": "715",
    "missile": "744",
    "camper": "757",
    "grill": "766",
    "ruler": "769",
    "salt": "773",
    "saxophone": "776",
    "sword": "777",
    "plow": "803",
    "soap": "804",
    "keyboard": "810",
    "scarf": "824",
    "tram": "829",
    "temple": "832",
    "sunglasses": "836",
    "mop": "840",
    "roof": "853",
    "toilet": "861",
    "totem": "863",
    "toy": "865",
    "piano": "881",
    "bridge": "888",
    "waffle": "891",
    "sink": "896",
    "window": "904 905",
    "sailboat": "914",
    "tent": "915",
    "website": "916",
    "comic": "917",
    "crossword": "918",
    "traffic light": "920",
    "book": "921",
    "soup": "925",
    "stew": "926",
    "dessert": "927",
    "ice cream": "928",
    "popsicle": "929",
    "bread": "930",
    "hamburger": "933",
    "thistle": "946",
    "apple": "948",
    "fruit": "956",
    "pasta": "959",
    "chocolate": "960",
    "meat": "962",
    "pie": "964",
    "coffee": "967",
    "mountain": "970",
    "lake": "975",
    "coast": "976",
    "beach": "977 978",
    "player": "981",
    "flower": "984 986",
    "berry": "989",
    "chestnut": "990",
    "mushroom": "991-997",
    "corn": "998",
    "toilet paper": "999",
    "rooster": "7",
    "spiral": "506",
    "guinea pig": "338",
    "piggy bank": "719",
    "teddy bear": "850",
    "hot dog": "934",
    "puzzle": "611",
}
"""A noun, and the classes that it names in place of the last word of theirs."""
SOME = """
    armor bars binoculars bread broccoli candy chocolate cloth coffee coral corn dough eggnog fruit guacamole hay jeans
    lotion lumber meat pasta perfume powder salt soap soup stew sunglasses sunscreen velvet wine wool
    """.split()  # noqa: SIM905 (shorter)
SOME += ["ice cream", "toilet paper"]
"""Nouns that stand after "some" rather than "a"."""


def article_of(noun: str) -> str:
    """Return the article of a noun."""
    if noun in SOME:
        return "some"
    return "an" if noun[0] in "aeio" or noun == "umbrella" else "a"


def main() -> None:
    """Write the file of classes."""
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    parser = argparse.ArgumentParser(
        prog="python -m latentbank.demo.scripts.make_classes", description=str(__doc__).splitlines()[0]
    )
    parser.parse_args()
    nouns = [name.split()[-1].lower() for name in _IMAGENET_CATEGORIES]
    for noun, places in SHARED.items():
        for part in places.split():
            first, _, last = part.partition("-")
            for number in range(int(first), int(last or first) + 1):
                nouns[number] = noun
    rows = ",\n".join(
        json.dumps({"class": name, "noun": noun, "article": article_of(noun)})
        for name, noun in zip(_IMAGENET_CATEGORIES, nouns, strict=True)
    )
    write_whole(CLASSES, f"[\n{rows}\n]\n".encode())
    print(f"Wrote {len(nouns)} classes with {len(set(nouns))} nouns to {CLASSES}.")


if __name__ == "__main__":
    main()
