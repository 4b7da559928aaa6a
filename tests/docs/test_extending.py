"""docs/extending.md: the example package works as described."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.docs.pages import DOCS, ROOT, blocks

PAGE = DOCS / "extending.md"

USE = """
from types import SimpleNamespace
import numpy as np, torch
from latentbank.ingest.corpus import Counts, open_corpus, read_sentences
from latentbank.models.vision.geometry import Picture
from latentbank.models.vision.registry import places_of
from latentbank.query.lenses.base import Queries
from latentbank.query.lenses.registry import lens_class

class Recording:
    def read(self, queries, top_k):
        return queries

shifted = lens_class("shifted")(Recording(), {8: 2 * torch.ones(3)})
states = np.ones((2, 3), dtype=np.float32)
assert (shifted.read(Queries(states, 8, "visual")).states == 3).all()
assert (shifted.read(Queries(states, 9, "visual")).states == 1).all()

config = SimpleNamespace(model_type="my_vlm", vision_config=SimpleNamespace(
    model_type="my_vision", image_size=28, patch_size=14))
places = places_of(config)(Picture((100, 50), config, None, {}, 0, 1))
assert places.boxes.tolist() == [[0, 0, 50, 25], [50, 0, 100, 25], [0, 25, 50, 50], [50, 25, 100, 50]]

assert list(read_sentences(open_corpus("film", "film.srt"), Counts())) == ["Hello, you.", "Good bye."]
"""


def test_the_example_package_works(tmp_path: Path) -> None:
    project = tomllib.loads(next(blocks(PAGE, "toml")))["project"]
    package = tmp_path / "my_extension"
    package.mkdir()
    (package / "__init__.py").touch()
    names = re.findall(r"^.*`my_extension/(\w+\.py)`", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    *modules, check = blocks(PAGE, "python")
    assert len(names) == len(modules) == 3
    for name, code in zip(names, modules, strict=True):
        (package / name).write_text(code, encoding="utf-8")
    info = tmp_path / "my_extension-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    (info / "entry_points.txt").write_text(
        "".join(
            f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in points.items())
            for group, points in project["entry-points"].items()
        )
    )
    (tmp_path / "film.srt").write_text("1\n00:01 --> 00:02\nHello,\nyou.\n\n2\n00:03 --> 00:04\nGood bye.\n")
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error::RuntimeWarning",
            "-c",
            f"import sys; sys.path.append({str(ROOT)!r})\n{check}{USE}",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
