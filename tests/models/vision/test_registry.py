"""Families of vision-language models: those built in, and those of installed packages."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentbank.models.vision import registry
from latentbank.models.vision.encoders import load_encoder
from latentbank.models.vision.vision_language import load_vision_language_model
from latentbank.models.visual import load_visual_model
from tests.models.tiny_vlm import save_tiny_vlm
from tests.models.vision import oracle
from tests.query.patch_vlm import PatchVLM

Install = Callable[..., None]

FAMILY = """
import numpy as np

from latentbank.models.language.model import load_language_model
from latentbank.models.vision.geometry import Places
from latentbank.models.vision.registry import Family
from tests.query.patch_vlm import PatchVLM

loaded = []


def places(picture):
    count = int((picture.inputs["input_ids"][0] == picture.config.image_token_id).sum())
    boxes = np.tile(np.array([1, 2, 3, 4], dtype=np.float32), (count, 1))
    numbers, zeros = np.arange(count), np.zeros(count, dtype=np.int64)
    return Places(boxes, zeros, numbers, zeros, np.ones(count, dtype=bool))


def load(options):
    loaded.append(options)
    return PatchVLM(load_language_model(PATH, deepest_layer=options.deepest_layer))


def load_encoder(options):
    return "the encoder"


FAMILY = Family(
    "theirs", ("paligemma",), places, models={"patches": load}, encoders={"patch-encoder": load_encoder}
)
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a package with a module `their_family` and an entry point, as pip leaves it."""

    def package(code: str, target: str = "their_family:FAMILY") -> None:
        info = tmp_path / "site" / "theirs-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[latentbank.families]\ntheirs = {target}\n")
        (info.parent / "their_family.py").write_text(code)
        monkeypatch.syspath_prepend(info.parent)
        registry.families.cache_clear()

    yield package
    registry.families.cache_clear()
    sys.modules.pop("their_family", None)


def test_an_installed_package_adds_a_family(
    install: Install, saved: Callable[[str], str], tmp_path: Path
) -> None:
    install(f"PATH = {saved('llama')!r}\n{FAMILY}")
    vlm = load_vision_language_model(str(save_tiny_vlm(tmp_path / "vlm", "paligemma")), device="cpu")
    assert vlm.geometry == "exact, paligemma"
    (tokens,) = vlm.visual_tokens([Image.new("RGB", (40, 40))], [0])
    assert len(tokens)
    assert (tokens.boxes == [1, 2, 3, 4]).all()
    assert tokens.columns.tolist() == np.arange(len(tokens)).tolist()

    model = load_visual_model("patches", device="cpu", deepest_layer=1, folder=tmp_path)
    assert isinstance(model, PatchVLM)
    assert model.language.loaded_layers == 1
    (options,) = sys.modules["their_family"].loaded
    assert (options.device, options.folder, options.revision) == ("cpu", tmp_path, None)
    encoder: Any = load_encoder("Patch-Encoder")
    assert encoder == "the encoder"


@pytest.mark.parametrize(
    ("code", "target", "message"),
    [
        ("raise OSError('no disk')", "their_family:FAMILY", "cannot be loaded (no disk)"),
        ("", "their_family:FAMILY", "cannot be loaded"),
        ("FAMILY = 3", "their_family:FAMILY", "is not a Family"),
    ],
)
def test_a_broken_family_is_left_out(
    install: Install, caplog: pytest.LogCaptureFixture, code: str, target: str, message: str
) -> None:
    install(code, target)
    with caplog.at_level(logging.WARNING):
        found = registry.families()
    assert message in caplog.text
    assert "theirs" in caplog.text
    assert "Qwen-VL" in [family.name for family in found]


def test_built_in_families_answer_to_different_model_types() -> None:
    built_in = registry._built_in()
    types = [model_type for family in built_in for model_type in family.model_types]
    assert len(set(types)) == len(types)
    assert all(family.places for family in built_in)


def test_the_docs_name_every_type() -> None:
    page = (Path(__file__).parents[3] / "docs" / "families.md").read_text(encoding="utf-8")
    table = [line.split("|")[2] for line in page.splitlines() if line.startswith("| ")][1:]
    types = [kind for family in registry._built_in() for kind in family.model_types]
    assert sorted(kind for cell in table for kind in cell.replace("`", "").split()) == sorted(types)


def test_every_rule_goes_through_the_oracle() -> None:
    types = {kind for family in registry._built_in() for kind in family.model_types}
    assert types - {"molmo"} <= {*oracle.cases()}  # Molmo's stand-in has tests of its own


def test_the_vision_models_type_can_decide() -> None:
    plain, pixtral = (
        SimpleNamespace(model_type="llava", vision_config=SimpleNamespace(model_type=kind))
        for kind in ("clip_vision_model", "pixtral")
    )
    mistral = SimpleNamespace(model_type="mistral3")
    assert registry.places_of(pixtral) == registry.places_of(mistral)
    assert registry.places_of(plain) not in (None, registry.places_of(pixtral))
    assert registry.places_of(SimpleNamespace(model_type="bert")) is None


def test_the_demo_is_a_family_by_entry_point() -> None:
    load = registry.model_loader("demo")
    assert load is not None
    assert load.__module__ == "latentbank.demo.family"


def test_finding_the_demo_loads_no_model_library() -> None:
    code = "import latentbank.demo.family, sys; print(sorted({'torch', 'transformers', 'numpy'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
