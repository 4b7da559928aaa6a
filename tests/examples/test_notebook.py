"""The notebook runs from its first cell to its last, with a tiny VLM and its bank in the place of the demo's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import latentbank
from latentbank.bank.images.opening import create_images
from latentbank.ingest.images.job import ingest_images
from latentbank.ingest.images.naming import NamedImages
from latentbank.models.language.model import load_language_model
from latentbank.models.vision.sources import ImageSource
from latentbank.models.vision.tokens import visual_fingerprint
from latentbank.query.output.pictures import png_bytes
from tests.query.banks import SENTENCES, fill
from tests.query.patch_vlm import PatchVLM, picture
from tests.tiny import save_tiny

NOTEBOOK = Path(__file__).parents[2] / "examples" / "image_to_words.ipynb"


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert len(cells) == 12
    assert not any(cell.get("outputs") for cell in cells)
    language = load_language_model(str(save_tiny(tmp_path / "llama-tiny", num_hidden_layers=16)))
    vlm = PatchVLM(language)
    texts = [*SENTENCES, "She wore a crown of gold.", "The crown is old.", "A king without his crown."]
    fill("demo", tmp_path, language, {"descriptions": texts}, [4, 8]).close()
    sources = [ImageSource(f"{number}.png", f"{number}", png_bytes(picture(number))) for number in range(3)]
    with create_images(
        "demo",
        data_dir=tmp_path,
        url="",
        model=vlm.name,
        fingerprint=visual_fingerprint(vlm),
        layers=[8],
        num_layers=vlm.num_layers,
        hidden_size=vlm.hidden_size,
    ) as images:
        ingest_images(images, NamedImages("scenes", sources, (), 3), vlm)
    monkeypatch.setenv("LATENTBANK_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(latentbank, "load_visual_model", lambda *_, **__: vlm)
    space: dict[str, Any] = {}
    shown = []
    for cell in cells:
        if cell["cell_type"] == "code":
            *lines, last = _statements("".join(cell["source"]))
            exec("\n".join(lines), space)
            shown.append(eval(last, space))
    space["bank"].close()
    space["images"].close()
    bank, reading, grid, life, filtered, text, where, like = shown
    assert bank.name == "demo"
    assert reading._repr_html_()
    assert [len(row) for row in grid] == [3, 3]
    assert life.layers == tuple(range(17))
    assert filtered["pictured"][0] not in filtered["without"]
    assert len(text.tokens[0].neighbors) == 3
    assert where.width > like.width // 2 > 0


def _statements(code: str) -> list[str]:
    """Return the statements of a cell as source; the last one is an expression, which a notebook shows."""
    import ast

    return [ast.unparse(statement) for statement in ast.parse(code).body]
