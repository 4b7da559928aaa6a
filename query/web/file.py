"""A reading as one self-contained HTML file, with page, style and data, that can be opened from disk."""

from __future__ import annotations

import base64
import hashlib
import html
import os
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from latentbank.files import require_suffix, write_whole
from latentbank.query.web.data import page_json

if TYPE_CHECKING:
    from latentbank.query.reading.reading import Reading

PAGE = Path(__file__).parent / "page"
STYLES = ("style.css", "reading.css")
"""The style sheets of a reading."""
_MODULES = (  # in the order of their imports
    "elements.js", "colours.js", "speaking.js", "reading.js", "regions.js", "legends.js", "stage.js", "life.js",
    "cards.js", "headline.js", "words.js", "bar.js", "keys.js", "view.js", "figure.js", "tools.js", "saved.js",
)  # fmt: skip
_START = "startSaved();\n"


def reading_html(reading: Reading) -> str:
    """Return a reading as an HTML page; see `page_html`."""
    return page_html(page_json(reading), reading.source)


def page_html(data: str, title: str) -> str:
    """Return an HTML page.

    The page's content security policy allows only its own script and style, named by their hashes, and no requests.

    Args:
        data: from `page_json`.
        title: of the page.
    """
    script = _script()
    style = "".join((PAGE / name).read_text(encoding="utf-8") for name in STYLES)
    policy = (
        f"default-src 'none'; img-src data:; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)} – latentbank</title>\n"
        f"<style>{style}</style>\n</head>\n{_body()}\n"
        f'<script type="application/json" id="reading">{data}</script>\n'
        f'<script type="module">{script}</script>\n</body>\n</html>\n'
    )


def save_html(reading: Reading, path: str | os.PathLike[str]) -> Path:
    """Write a reading as an HTML file, whole or not at all, and return its path.

    Raises:
        QueryError: the path has the suffix of another format.
        LatentBankError: the file cannot be written.

    Examples:
        >>> import latentbank as lb
        >>> vlm = lb.load_visual_model("Qwen/Qwen2.5-VL-7B-Instruct")
        >>> with lb.open_bank("Qwen2.5-VL-7B-Instruct") as bank:
        ...     reading = lb.read_image(bank, vlm, "cat.jpg", layers=[0, 8])
        >>> path = lb.save_html(reading, "cat.html")
    """
    require_suffix(Path(path), (".html", ".htm"), "A page is written as HTML")
    return write_whole(Path(path), reading_html(reading).encode("utf-8", "replace"))


def framed(reading: Reading, height: int = 720) -> str:
    """Return a reading as HTML for a notebook: the page in a sandboxed frame, which has no access to the notebook.

    Args:
        reading: of an image or of text.
        height: of the frame, in pixels.
    """
    page = html.escape(reading_html(reading))
    return (
        f'<iframe title="{html.escape(reading.title())}" sandbox="allow-scripts" width="100%" height="{height}" '
        f'frameborder="0" srcdoc="{page}"></iframe>'
    )


@cache
def _body() -> str:
    """Return the body of the live page as a saved page has it, from its first tag on: without what needs a server."""
    text = (PAGE / "index.html").read_text(encoding="utf-8")
    text = re.sub(r"<!-- live -->.*?<!-- /live -->\n?", "", text, flags=re.DOTALL)
    return text[text.index("<body") : text.index("</body>")].rstrip()


@cache
def _script() -> str:
    """Return the page's modules as one script, as a page opened from disk cannot import modules."""
    parts = []
    for name in _MODULES:
        text = (PAGE / name).read_text(encoding="utf-8")
        text = re.sub(r"^import [^;]*;\n", "", text, flags=re.MULTILINE)
        parts.append(re.sub(r"^export ", "", text, flags=re.MULTILINE))
    return "\n".join([*parts, _START])


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
