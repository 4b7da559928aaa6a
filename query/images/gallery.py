"""Ranked patches as one self-contained HTML file: each patch marked in its picture. It holds no script."""

from __future__ import annotations

import base64
import hashlib
import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from latentbank.files import write_whole
from latentbank.text import as_unicode, listed

if TYPE_CHECKING:
    from latentbank.bank.images.points import Patch
    from latentbank.query.images.results import RankedPatches

_STYLE = """
:root { color-scheme: light dark; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 80rem; padding: 1.25rem; background: #ffffff; color: #1a1d21;
  font: 15px/1.45 system-ui, sans-serif; }
h1 { margin: 0 0 0.25rem; font-size: 1.5rem; overflow-wrap: anywhere; }
.about { margin: 0 0 1.25rem; overflow-wrap: anywhere; }
ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(14rem, 45%), 1fr)); gap: 1rem; margin: 0;
  padding: 0; list-style: none; }
li { min-width: 0; border: 1px solid #d5dae1; border-radius: 8px; overflow: hidden; background: #f1f3f6; }
li > svg { display: block; width: 100%; aspect-ratio: 1; background: #d5dae1; }
.shade { fill: #000000; opacity: 0.4; fill-rule: evenodd; }
.outer, .inner { fill: none; vector-effect: non-scaling-stroke; }
.outer { stroke: #ffffff; stroke-width: 4px; }
.inner { stroke: #0b57c4; stroke-width: 2px; }
.told { padding: 0.5rem 0.65rem 0.65rem; font-size: 0.87rem; }
.told p { margin: 0; overflow-wrap: anywhere; }
.name { font-weight: 600; }
.rank { display: inline-block; min-width: 1.5rem; margin-right: 0.4rem; padding: 0 0.35rem; border-radius: 4px;
  background: #0b57c4; color: #ffffff; text-align: center; font-variant-numeric: tabular-nums; }
.about, .quiet, .none { color: #565d66; font-variant-numeric: tabular-nums; }
.none { padding: 2rem 0; }
@media (prefers-color-scheme: dark) {
  body { background: #14171b; color: #e8eaed; }
  li { border-color: #363d46; background: #1e2329; }
  li > svg { background: #363d46; }
  .rank { background: #8ab8ff; color: #0d1420; }
  .about, .quiet, .none { color: #a9b1bb; }
}
"""

_MOST = 6  # patches of an image whose places are told


def gallery_html(found: RankedPatches) -> str:
    """Return an answer as an HTML page. Its content security policy allows its own style and pictures, no requests."""
    numbers: dict[tuple[str, str], int] = {}
    defined, cards = [], []
    groups = found.images() if found.by_image else [(patch,) for patch in found.patches]
    for rank, group in enumerate(groups, 1):
        key = group[0].corpus, group[0].digest
        if key not in numbers and (picture := found.picture(group[0])) is not None:
            numbers[key] = len(numbers)
            defined.append(_defined(numbers[key], group[0], picture))
        cards.append(_card(rank, group, numbers.get(key), found))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(_STYLE)}'; base-uri 'none'; form-action 'none'"
    )
    body = f"<ol>\n{''.join(cards)}</ol>" if cards else '<p class="none">No patch was found.</p>'
    title = html.escape(found.question)
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title} – latentbank</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{title}</h1>\n<p class="about">{html.escape(about(found))}</p>\n'
        f'<svg width="0" height="0" aria-hidden="true"><defs>{"".join(defined)}</defs></svg>\n'
        f"{body}\n</main>\n</body>\n</html>\n"
    )
    return as_unicode(page)


def save_gallery(found: RankedPatches, path: str | os.PathLike[str]) -> Path:
    """Write an answer as an HTML file, whole or not at all, and return its path.

    Raises:
        LatentBankError: the file cannot be written.
    """
    return write_whole(Path(path), gallery_html(found).encode())


def about(found: RankedPatches) -> str:
    """Return one sentence on what was searched and how."""
    source = f"{found.source}, bank layer {listed(found.bank_layers)}" if found.bank_layers else found.source
    where = f"{found.model}, bank {found.bank}, visual layer {listed(found.visual_layers)}"
    parts = [where, source, found.correction]
    return f"{'; '.join(part for part in parts if part)}."


def place_of(patch: Patch) -> str:
    """Return where a patch lies in its image, for people; rows and columns count from 0, as options take them."""
    if patch.row < 0:
        return f"token {patch.token}"
    tile = f", tile {patch.tile}" if patch.tile else ""
    return f"row {patch.row}, column {patch.column}{tile}"


def places_of(group: Sequence[Patch]) -> str:
    """Return where patches of one image lie, for people; several as options take them."""
    if len(group) == 1 or group[0].row < 0:
        return place_of(group[0])
    shown = [
        f"{patch.row},{patch.column}" + (f",{patch.tile}" if patch.tile else "") for patch in group[:_MOST]
    ]
    return f"patches {' · '.join(shown)}{' · …' if len(group) > _MOST else ''}"


def score_text(patch: Patch) -> str:
    """Return a patch's scores, for people."""
    cosine = f"cosine {patch.cosine:.3f}"
    return cosine if patch.corrected is None else f"{patch.corrected:.3f} ({cosine})"


def _defined(number: int, patch: Patch, picture: bytes) -> str:
    data = base64.b64encode(picture).decode()
    width, height = patch.size
    return (
        f'<image id="p{number}" width="{width}" height="{height}" preserveAspectRatio="none" '
        f'href="data:image/jpeg;base64,{data}"/>'
    )


def _card(rank: int, group: Sequence[Patch], picture: int | None, found: RankedPatches) -> str:
    """Return the card of one patch, or of one image with its patches."""
    first, name = group[0], html.escape(group[0].image)
    places = html.escape(places_of(group))
    layer = f"layer {first.layer}, " if len(found.visual_layers) > 1 else ""
    told = [
        f'<p class="name"><span class="rank">{rank}</span>{name}</p>',
        f'<p class="quiet">{places}</p>',
        f'<p class="quiet">{layer}{score_text(first)}</p>',
    ]
    words = list(dict.fromkeys(patch.word for patch in group if patch.word))
    if words:
        told.append(f"<p>{html.escape(', '.join(words))}</p>")
    return f'<li>{_drawn(group, picture, places)}\n<div class="told">{"".join(told)}</div></li>\n'


def _drawn(group: Sequence[Patch], picture: int | None, places: str) -> str:
    width, height = group[0].size
    boxes = [patch.box for patch in group if patch.box is not None]
    shown = f'<use href="#p{picture}"/>' if picture is not None else ""
    holes = "".join(f"M{left:g} {top:g}H{right:g}V{bottom:g}H{left:g}Z" for left, top, right, bottom in boxes)
    shade = f'<path class="shade" d="M0 0H{width}V{height}H0Z{holes}"/>' if boxes else ""
    marks = "".join(
        f'<rect class="{kind}" x="{left:g}" y="{top:g}" width="{right - left:g}" height="{bottom - top:g}"/>'
        for left, top, right, bottom in boxes
        for kind in ("outer", "inner")
    )
    label = f"{html.escape(group[0].image)}, marked: {places}"
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">'
        f"<title>{label}</title>{shown}{shade}{marks}</svg>"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
