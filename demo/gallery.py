"""A gallery: readings as pictures with a sentence each, as a page of the docs and as one HTML file."""

from __future__ import annotations

import base64
import hashlib
import html
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from latentbank.files import write_whole
from latentbank.query.reading.reading import Reading, TokenReading

_WIDEST = 1100  # pixels of a picture
_QUALITY = 82
_SHOWN = 4  # words that a sentence tells

_STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --raised: #f1f3f6; --text: #1a1d21; --quiet: #565d66;
  --line: #d5dae1; --link: #0b57c4; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --raised: #1e2329; --text: #e8eaed;
  --quiet: #a9b1bb; --line: #363d46; --link: #8ab8ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1.25rem; background: var(--ground); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { margin: 0.5rem 0 0.25rem; font-size: 1.8rem; }
h2 { margin: 0 0 0.4rem; font-size: 1.25rem; }
.about, figcaption p { margin: 0 0 0.6rem; max-width: 48rem; }
a { color: var(--link); }
nav ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 0.2rem 1.5rem;
  padding-left: 1.4rem; }
figure { margin: 2rem 0; padding: 1.25rem; border: 1px solid var(--line); border-radius: 10px;
  background: var(--raised); }
figure img { display: block; max-width: 100%; height: auto; margin: 0.6rem 0; border-radius: 6px; background: #ffffff; }
pre { margin: 0; padding: 0.6rem 0.8rem; overflow-x: auto; border-radius: 6px; background: var(--ground);
  border: 1px solid var(--line); font-size: 0.85rem; }
summary { cursor: pointer; color: var(--link); }
table { border-collapse: collapse; font-size: 0.87rem; }
th, td { padding: 0.15rem 0.9rem 0.15rem 0; text-align: left; vertical-align: top; }
details div { overflow-x: auto; }
"""


@dataclass(frozen=True)
class Entry:
    """One reading of the gallery.

    Attributes:
        name: of its files, such as "scene-shield".
        title: a few words.
        told: what one sees, in one or two sentences.
        picture: the picture.
        described: what the picture shows, for those who do not see it.
        command: the command that makes such a reading.
        words: rows of a table that says what the picture says: a name, and its words.
    """

    name: str
    title: str
    told: str
    picture: Image.Image
    described: str
    command: str
    words: Sequence[tuple[str, str]] = ()


def told_words(tokens: Sequence[TokenReading]) -> str:
    """Return in a sentence which words stand on how many tokens, the commonest first."""
    counts = Counter(token.neighbors[0].word.casefold() for token in tokens if token.neighbors)
    if not counts:
        return "no word at all"
    parts = [f"“{word}” on {count}" for word, count in counts.most_common(_SHOWN)]
    left = len(counts) - _SHOWN
    return ", ".join(parts) + (f", and {left} other word{'s' * (left > 1)}" if left > 0 else "")


def best_layer(reading: Reading, lens: str | None = None) -> int:
    """Return the visual layer at which most tokens have words; of several the first."""
    return max(
        reading.layers, key=lambda layer: sum(bool(token.neighbors) for token in reading.at(layer, lens))
    )


def words_of(tokens: Sequence[TokenReading]) -> list[tuple[str, str]]:
    """Return the words of each token that has any, as rows of a table."""
    return [
        (f"row and column {token.label}", ", ".join(neighbor.word for neighbor in token.neighbors))
        for token in tokens
        if token.neighbors
    ]


def jpeg_of(picture: Image.Image) -> bytes:
    """Return a picture as a JPEG, no wider than a page."""
    plain = picture.convert("RGB")
    if plain.width > _WIDEST:
        size = (_WIDEST, round(plain.height * _WIDEST / plain.width))
        plain = plain.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    plain.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return buffer.getvalue()


def gallery_html(entries: Sequence[Entry], about: str) -> str:
    """Return a page of all readings that needs nothing else and sends no requests."""
    links = "".join(f'<li><a href="#{entry.name}">{html.escape(entry.title)}</a></li>' for entry in entries)
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(_STYLE)}'; base-uri 'none'; form-action 'none'"
    )
    figures = "\n".join(_figure(entry) for entry in entries)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Ten readings – latentbank</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>Ten readings</h1>\n<p class="about">{html.escape(about)}</p>\n'
        f'<nav aria-label="Readings"><ol>{links}</ol></nav>\n{figures}\n</main>\n</body>\n</html>\n'
    )


def gallery_markdown(entries: Sequence[Entry], about: str, folder: str) -> str:
    """Return the gallery as a page of the docs, whose pictures lie in `folder` beside it."""
    lines = ["# Gallery", "", about, ""]
    for entry in entries:
        lines += [
            f"## {entry.title}",
            "",
            entry.told,
            "",
            f"![{entry.described}]({folder}/{entry.name}.jpg)",
            "",
            "```",
            entry.command,
            "```",
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"


def write_gallery(entries: Sequence[Entry], about: str, docs: Path) -> list[Path]:
    """Write a gallery into a folder of docs: gallery.md, and in gallery/ its pictures and all.html."""
    files = [write_whole(docs / "gallery" / f"{entry.name}.jpg", jpeg_of(entry.picture)) for entry in entries]
    files.append(write_whole(docs / "gallery" / "all.html", gallery_html(entries, about).encode()))
    more = f"{about} [gallery/all.html](gallery/all.html) is all of it in one file that needs no network."
    files.append(write_whole(docs / "gallery.md", gallery_markdown(entries, more, "gallery").encode()))
    known = {file.name for file in files}
    for file in (docs / "gallery").glob("*.jpg"):
        if file.name not in known:
            file.unlink()
    return files


def _figure(entry: Entry) -> str:
    data = base64.b64encode(jpeg_of(entry.picture)).decode()
    rows = "".join(
        f"<tr><th scope=row>{html.escape(name)}</th><td>{html.escape(words)}</td></tr>"
        for name, words in entry.words
    )
    table = (
        f"<details><summary>The words as a table</summary><div><table>{rows}</table></div></details>"
        if rows
        else ""
    )
    return (
        f'<figure id="{entry.name}">\n<figcaption><h2>{html.escape(entry.title)}</h2>'
        f"<p>{html.escape(entry.told)}</p></figcaption>\n"
        f'<img src="data:image/jpeg;base64,{data}" alt="{html.escape(entry.described)}">\n{table}'
        f'<pre tabindex="0">{html.escape(entry.command)}</pre>\n</figure>'
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
