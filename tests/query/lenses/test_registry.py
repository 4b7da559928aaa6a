"""Lenses by name, and lenses of installed packages."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from latentbank.bank.bank import Bank
from latentbank.bank.points import Neighbor
from latentbank.errors import LayerNotFound, QueryError
from latentbank.models.language.model import LanguageModel
from latentbank.query.lenses import base, registry
from latentbank.query.lenses.base import Lens, LensOptions, Queries
from latentbank.query.lenses.latent import LatentLens
from latentbank.query.lenses.registry import lens_classes, lens_names, lenses_of, score_of, title_of
from latentbank.query.reading.visual import read_images
from latentbank.query.web.data import page_data
from tests import children
from tests.query.patch_vlm import PatchVLM, picture

PACKAGE = '''
"""A lens that turns each layer in a way of its own, before the embeddings are compared."""

from dataclasses import dataclass, field

from latentbank.query.lenses.base import Lens, Queries
from latentbank.query.lenses.embedding import EmbeddingLens


@dataclass(frozen=True)
class TurnedLens(Lens):
    embeddings: EmbeddingLens
    read_layers: list = field(default_factory=list)

    name = "turned"
    title = "TurnedLens"
    score = "probability"

    @classmethod
    def make(cls, options):
        return cls(EmbeddingLens.make(options))

    def read(self, queries, top_k=5):
        self.read_layers.append((queries.layer, queries.kind, len(queries)))
        turned_states = queries.states * (1 if queries.layer == 0 else -1)
        return self.embeddings.read(Queries(turned_states, queries.layer, queries.kind), top_k)
'''


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for installed packages; the lenses that they register are removed afterwards."""
    monkeypatch.setattr(base, "_CLASSES", dict(lens_classes()))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    registry._load_all.cache_clear()
    yield tmp_path
    for module in ("turned_lens", "broken_lens"):
        sys.modules.pop(module, None)
    registry._load_all.cache_clear()


def install(folder: Path, module: str, source: str, entry_point: str) -> None:
    (folder / f"{module}.py").write_text(source, encoding="utf-8")
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[latentbank.lenses]\n{entry_point}\n")


def test_names_are_each_given_once_and_unknown_ones_refused() -> None:
    assert lens_names("logit, latent,logit") == ["logit", "latent"]
    assert list(lens_classes())[:6] == [
        "latent",
        "logit",
        "embedding",
        "tuned",
        "jacobian",
        "patchscopes",
    ]
    with pytest.raises(
        QueryError, match="There is no lens 'turned'; there are latent, logit, embedding, tuned"
    ):
        lens_names("latent,turned")


def test_titles_and_scores_also_of_lenses_not_known_here() -> None:
    names = ("latent", "logit", "embedding", "elsewhere")
    assert [title_of(name) for name in names] == ["LatentLens", "LogitLens", "EmbeddingLens", "elsewhere"]
    assert [score_of(name) for name in names] == ["cosine", "probability", "cosine", "cosine"]


@pytest.mark.parametrize("entry_point", ["turned = turned_lens", "turned = turned_lens:TurnedLens"])
def test_a_lens_of_an_installed_package_gets_the_layer_it_reads(
    installed: Path, bank: Bank, tiny: LanguageModel, entry_point: str
) -> None:
    install(installed, "turned_lens", PACKAGE, entry_point)
    model = PatchVLM(tiny)
    assert list(lens_classes())[-1] == "turned"
    latent, turned, embedding = lenses_of(lens_names("latent,turned,embedding"), LensOptions(model, bank))
    images = [picture(seed) for seed in range(3)]
    readings = list(read_images(model, images, [latent, turned, embedding], [0, 2], batch=2, top_k=2))
    assert turned.read_layers == [  # type: ignore[attr-defined]
        (0, "visual", 12),
        (2, "visual", 12),
        (0, "visual", 6),
        (2, "visual", 6),
    ]
    for reading in readings:
        assert reading.lenses == ("latent", "turned", "embedding")
        found = {
            lens: {layer: [t.neighbors for t in reading.at(layer, lens)] for layer in (0, 2)}
            for lens in ("turned", "embedding")
        }
        assert found["turned"][0] == found["embedding"][0]
        assert found["turned"][2] != found["embedding"][2]
        assert page_data(reading)["about_lenses"]["turned"] == {
            "title": "TurnedLens",
            "score": "probability",
            "bank": False,
        }


def test_a_broken_package_takes_no_other_lens_away(installed: Path) -> None:
    install(installed, "broken_lens", "raise RuntimeError('no such device')", "broken = broken_lens")
    with pytest.warns(
        RuntimeWarning,
        match=r"The installed lens 'broken' \(broken_lens\) cannot be loaded \(no such device\)",
    ):
        assert lens_names("latent,logit") == ["latent", "logit"]
    with pytest.raises(QueryError, match="no lens 'broken'"):
        lens_names("broken")


def test_a_lens_defines_name_title_and_score(installed: Path) -> None:
    with pytest.raises(TypeError, match="Nameless must define its title, and its score"):

        class Nameless(LatentLens):
            name = "nameless"
            score = "distance"  # type: ignore[assignment]

    with pytest.raises(TypeError, match=r"is named 'logit' like latentbank.query.lenses.logit.LogitLens"):

        class Other(LatentLens):
            name = "logit"

    class Deeper(LatentLens):
        """A subclass without a name of its own: it can be used, but is not registered."""

    assert "nameless" not in lens_classes()


def test_a_lens_that_needs_a_bank_is_refused_without_one(tiny: LanguageModel) -> None:
    assert [name for name, lens in lens_classes().items() if lens.needs_bank] == ["latent"]
    with pytest.raises(QueryError, match="LatentLens needs a bank"):
        lenses_of(["latent"], LensOptions(PatchVLM(tiny)))


class Plain(Lens, register=False):
    name, title, score = "plain", "Plain", "cosine"

    @classmethod
    def make(cls, options: LensOptions) -> Plain:
        return cls()

    def read(self, queries: Queries, top_k: int = 5) -> list[list[Neighbor]]:
        return [[] for _ in range(len(queries))]


def test_a_lens_without_a_bank_needs_no_more_than_read_and_make(tiny: LanguageModel) -> None:
    model = PatchVLM(tiny)
    lens = Plain.make(LensOptions(model))
    lens.check(model)
    assert (lens.bank, lens.searched_layers(), lens.distinct(), lens.centred()) == (None, [], lens, lens)
    with pytest.raises(LayerNotFound, match="Plain searches no bank"):
        lens.at_bank_layer(2)
    (reading,) = read_images(model, [picture()], [lens], [0])
    assert all(token.neighbors == () for token in reading.tokens)


@pytest.mark.parametrize("shape", [(4,), (6, 4)])
def test_slices_of_queries_keep_their_means(shape: tuple[int, ...], tiny: LanguageModel) -> None:
    states, mean = np.arange(24.0).reshape(6, 4), np.arange(float(np.prod(shape))).reshape(shape)
    queries = Queries(states, 3, "text", mean)
    part = queries[2:5]
    assert (len(queries), len(part), part.layer, part.kind) == (6, 3, 3, "text")
    assert isinstance(part.states, np.ndarray)
    assert isinstance(part.mean, np.ndarray)
    np.testing.assert_array_equal(part.states, states[2:5])
    np.testing.assert_array_equal(part.mean, mean[2:5] if len(shape) == 2 else mean)
    assert Queries(states, 3, "text")[:2].mean is None


def test_queries_are_not_copied(tiny: LanguageModel) -> None:
    states: Tensor = tiny.embedding
    assert Queries(states, None, "other")[0:2].states.data_ptr() == states.data_ptr()  # type: ignore[union-attr]


def test_a_name_of_ours_is_ours_also_if_another_lens_took_it_first() -> None:
    code = (
        "from latentbank.query.lenses.base import Lens\n"
        "class Theirs(Lens):\n"
        "    name, title, score = 'logit', 'Theirs', 'cosine'\n"
        "from latentbank.query.lenses.registry import lens_class\n"
        "print(lens_class('logit').title, len(lens_class('latent').title))\n"
    )
    done = children.run([sys.executable, "-c", code], check=True)
    assert done.stdout.split() == ["LogitLens", "10"]
    assert "The lens __main__.Theirs is not available" in done.stderr
