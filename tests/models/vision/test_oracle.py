"""Every family through the oracle: its tokens look where their boxes say, with Pillow and with torchvision."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers.utils.import_utils import is_torchvision_available

from latentbank.models.vision import registry
from latentbank.models.vision.geometry import Places, whole
from latentbank.models.vision.vision_language import VisionLanguageModel
from tests.models.vision import oracle

CASES = oracle.cases()
BOTH = is_torchvision_available()
BACKENDS = [
    pytest.param(
        name,
        backend,
        marks=[pytest.mark.skipif(backend == "torchvision" and not BOTH, reason="torchvision is missing")],
    )
    for name, case in CASES.items()
    for backend in ("pillow", "torchvision")
    if getattr(case, backend)
]

# Types with rules that the oracle cannot ask, and why.
UNASKED = {"molmo": "its code comes with the model; test_molmo.py tries the rules on a stand-in"}


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("oracle")


@pytest.fixture(scope="module", autouse=True)
def _one_at_a_time() -> Iterator[None]:
    yield
    _loaded.clear()


_loaded: dict[tuple[str, str], VisionLanguageModel] = {}


def loaded(root: Path, name: str, backend: str) -> VisionLanguageModel:
    """Return a case's model; the last one is kept, because tests of one case follow each other."""
    if (name, backend) not in _loaded:
        _loaded.clear()
        with oracle.backend(backend):
            _loaded[name, backend] = oracle.load(CASES[name], root / name.replace("/", "-"))
    return _loaded[name, backend]


def test_every_type_with_rules_is_asked() -> None:
    types = {model_type for family in registry._built_in() for model_type in family.model_types}
    assert types == (set(CASES) | set(UNASKED)) & types
    assert not set(UNASKED) & set(CASES)


@pytest.mark.parametrize(("name", "backend"), BACKENDS)
def test_tokens_look_where_their_boxes_say(root: Path, name: str, backend: str) -> None:
    """Two sizes of images, each alone; where both libraries can process them, one size by each."""
    case = CASES[name]
    first, second = case.sizes[:2]
    chosen = {"pillow": [first], "torchvision": [second]}[backend] if BOTH and case.both else [first, second]
    for size in chosen:
        oracle.check(loaded(root, name, backend), case, [size], inside=2, outside=1)


@pytest.mark.oracle
@pytest.mark.parametrize(("name", "backend"), BACKENDS)
def test_all_sizes(root: Path, name: str, backend: str) -> None:
    for number, size in enumerate(CASES[name].sizes):
        oracle.check(loaded(root, name, backend), CASES[name], [size], seed=number)


@pytest.mark.oracle
@pytest.mark.parametrize(("name", "backend"), BACKENDS)
def test_two_images_in_a_prompt(root: Path, name: str, backend: str) -> None:
    case = CASES[name]
    if not case.together:
        pytest.skip("it takes one image in a prompt")
    for first, second in itertools.pairwise(case.sizes[:3]):
        oracle.check(loaded(root, name, backend), case, [first, second])


WITHOUT = """
import sys, pathlib
sys.modules["torchvision"] = None  # as if it were not installed
from tests.models.vision import oracle
from transformers.utils.import_utils import is_torchvision_available
assert not is_torchvision_available()
for name in sys.argv[2:]:
    case = oracle.cases()[name]
    vlm = oracle.load(case, pathlib.Path(sys.argv[1], name))
    assert type(vlm.processor.image_processor).__name__.endswith("Pil")
    oracle.check(vlm, case, [(512, 288)], inside=2, outside=1)
    print(name, "is right")
"""


@pytest.mark.oracle
@pytest.mark.skipif(not BOTH, reason="torchvision is missing anyway")
def test_where_torchvision_is_really_missing(tmp_path: Path) -> None:
    """The other tests only tell transformers that it is."""
    names = ["qwen2_vl", "llava_onevision", "smolvlm", "mistral3", "internvl"]
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(tmp_path), *names], capture_output=True, text=True, check=False
    )
    assert ran.stdout.split("\n")[:-1] == [f"{name} is right" for name in names], ran.stderr


def moved(share: float) -> Callable[[Places], Places]:
    """Return a fault: every box lies a share of its width too far right."""

    def fault(places: Places) -> Places:
        boxes = places.boxes.copy()
        boxes[:, 0::2] += share * (boxes[:, 2:3] - boxes[:, 0:1])
        return replace(places, boxes=boxes)

    return fault


def scaled(factor: float) -> Callable[[Places], Places]:
    """Return a fault: every box is too large or too small by a factor."""

    def fault(places: Places) -> Places:
        centres = (places.boxes[:, :2] + places.boxes[:, 2:]) / 2
        halves = (places.boxes[:, 2:] - places.boxes[:, :2]) / 2 * factor
        return replace(places, boxes=np.concatenate([centres - halves, centres + halves], axis=1))

    return fault


def swapped(places: Places) -> Places:
    """Order one row from right to left."""
    boxes, row = places.boxes.copy(), places.rows == places.rows.max() // 2
    boxes[row] = boxes[row][::-1]
    return replace(places, boxes=boxes)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (moved(0.3), "see the boxes of"),
        (moved(1), "see the boxes of"),
        (scaled(0.5), "see beyond their boxes"),
        (scaled(1.5), "overlap"),
        (swapped, "see the boxes of"),
        (
            lambda places: whole((512, 288), places.columns.max() + 1, places.rows.max() + 1),
            "see the boxes of",
        ),
    ],
    ids=["moved a little", "moved by one", "too small", "too large", "a row swapped", "transposed"],
)
def test_the_oracle_notices(
    root: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[Places], Places], message: str
) -> None:
    vlm = loaded(root, "qwen2_5_vl", "pillow")
    right = vlm._placing.rule
    assert right is not None
    monkeypatch.setattr(vlm._placing, "rule", lambda image: fault(right(image)))
    with pytest.raises(AssertionError, match=message):
        oracle.check(vlm, CASES["qwen2_5_vl"], [(512, 288)])
