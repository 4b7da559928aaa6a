"""The fonts of figures: installed ones that have the words' characters, in any script."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from latentbank.text import listed

log = logging.getLogger(__name__)

# Taken first if the system has them; matplotlib's own, the first, has no Chinese, Japanese or Korean characters.
_FIRST = ("DejaVu Sans", "Noto Sans CJK JP", "Arial Unicode MS", "Microsoft YaHei")
_SHOWN = 5
_told: set[str] = set()


def fonts_for(text: str) -> list[str]:
    """Return the font families for a text; matplotlib takes each character from the first one that has it.

    Characters that no installed font has are named once, in a warning.
    """
    fonts = _installed()
    families = [name for name in _FIRST if name in fonts]
    missing = {letter for letter in text if letter.isprintable() and not letter.isspace()}
    for name in families:
        missing -= _characters(fonts[name])
    for name, path in fonts.items() if missing else ():
        if found := missing & _characters(path):
            families.append(name)
            missing -= found
        if not missing:
            break
    if new := sorted(missing - _told):
        _told.update(new)
        more = f" and {len(new) - _SHOWN:,} others" if len(new) > _SHOWN else ""
        log.warning(
            "No installed font has the characters %s%s: figures show boxes instead. Install one that has them, such as "
            "Noto Sans CJK.",
            listed(new[:_SHOWN]),
            more,
        )
    return families


@contextmanager
def quiet_about_glyphs() -> Iterator[None]:
    """Leave out matplotlib's warning for each missing character of each word: `fonts_for` has named them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


@cache
def _installed() -> dict[str, Any]:
    """Return the file of each installed font family; of several faces that of the plainest."""
    from matplotlib import font_manager

    plain_last = sorted(
        font_manager.fontManager.ttflist,
        key=lambda font: (font.style == "normal", font.weight in (400, "normal")),
    )
    # The last resort has boxes for all characters, and mathematical fonts have pieces of formulas.
    return {
        font.name: font.fname
        for font in plain_last
        if not font.name.startswith(("Last Resort", "STIX", "cm"))
    }


@cache
def _characters(path: Any) -> frozenset[str]:
    """Return the characters that a font file has."""
    from matplotlib import font_manager

    try:
        return frozenset(map(chr, font_manager.get_font(path).get_charmap()))
    except Exception:  # a damaged font has none
        return frozenset()
