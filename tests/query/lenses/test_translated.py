"""Tuned and Jacobian lens: what they read is LogitLens after their layer's map."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from latentbank.errors import BankMismatch, LayerNotFound, QueryError
from latentbank.models.language.model import LanguageModel, load_language_model
from latentbank.models.language.translators import Translators, card_of, save_translators
from latentbank.models.vision.alone import LanguageAlone
from latentbank.query.lenses.base import LensOptions, Queries
from latentbank.query.lenses.jacobian import JacobianLens
from latentbank.query.lenses.logit import LogitLens
from latentbank.query.lenses.registry import lenses_of
from latentbank.query.lenses.translated import TranslatedLens, kept_file
from latentbank.query.lenses.tuned import TunedLens
from latentbank.query.reading.visual import read_images
from tests.query.patch_vlm import PatchVLM, picture
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def states() -> Tensor:
    return torch.randn(7, 32, generator=torch.Generator().manual_seed(4)) * 5


@pytest.fixture(scope="module")
def options(tiny: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> LensOptions:
    return LensOptions(LanguageAlone(lambda: tiny), data_dir=tmp_path_factory.mktemp("lenses"))


def keep(options: LensOptions, kind: str, weights: dict[int, Tensor], bias: float = 0.0) -> None:
    language = options.model.language
    biases = {layer: torch.full((32,), bias) for layer in weights}
    made = Translators(kind, weights, biases, card_of(language))  # type: ignore[arg-type]
    save_translators(kept_file(options.folder(), made.kind, language.fingerprint()), made)


def test_zero_weights_are_logit_lens_exactly(options: LensOptions, states: Tensor) -> None:
    keep(options, "tuned", {layer: torch.zeros(32, 32) for layer in range(4)})
    lens, logit = TunedLens.make(options), LogitLens.make(options)
    for layer in range(5):
        assert torch.equal(lens.translators.translate(states, layer), states) if layer < 4 else True
        queries = Queries(states, layer, "visual")
        assert repr(lens.read(queries, 9)) == repr(logit.read(queries, 9))
        assert repr(lens.distinct().read(queries, 9)) == repr(logit.distinct().read(queries, 9))


@pytest.mark.parametrize(("kind", "lens"), [("tuned", TunedLens), ("jacobian", JacobianLens)])
def test_the_map_is_that_of_the_layer(
    options: LensOptions, states: Tensor, kind: str, lens: type[TranslatedLens]
) -> None:
    generator = torch.Generator().manual_seed(1)
    weights = {layer: torch.randn(32, 32, generator=generator) for layer in (1, 3)}
    keep(options, kind, weights, bias=0.5)
    (made,) = lenses_of([kind], options)
    assert isinstance(made, lens)
    logit = LogitLens.make(options)
    for layer, matrix in weights.items():
        moved = states @ matrix.T + 0.5 + (states if kind == "tuned" else 0)
        found = made.read(Queries(states.numpy(), layer, "other"), 4)
        expected = logit.read(Queries(moved, layer, "other"), 4)
        assert [[n.token_id for n in row] for row in found] == [[n.token_id for n in row] for row in expected]
        assert [n.score for row in found for n in row] == pytest.approx(
            [n.score for row in expected for n in row], rel=1e-3
        )
    last = Queries(states, 4, "other")  # the last layer needs no map
    assert repr(made.read(last, 3)) == repr(logit.read(last, 3))
    with pytest.raises(LayerNotFound, match="has no layer 2; it has 1, 3"):
        made.read(Queries(states, 2, "other"))
    with pytest.raises(QueryError, match="which layer"):
        made.read(Queries(states, None, "other"))


def test_an_image_is_read_at_its_own_layers(options: LensOptions, tiny: LanguageModel) -> None:
    keep(options, "tuned", {1: torch.eye(32), 3: torch.zeros(32, 32)}, bias=1.0)
    vlm = PatchVLM(tiny)
    lens = TunedLens.make(LensOptions(vlm, data_dir=options.data_dir))
    (reading,) = read_images(vlm, [picture()], [lens], [1, 3, 4])
    assert [len(reading.at(layer)) for layer in (1, 3, 4)] == [6, 6, 6]
    with pytest.raises(LayerNotFound, match="has no layer 2"):
        read_images(vlm, [picture()], [lens], [2])
    assert len(vlm.calls) == 1  # nothing was computed in vain


def test_a_lens_that_was_not_trained(options: LensOptions, tmp_path: Path) -> None:
    (kept_file(options.folder(), "jacobian", options.model.fingerprint())).unlink(missing_ok=True)
    with pytest.raises(QueryError, match="There is no Jacobian lens of llama-tiny on this machine") as error:
        JacobianLens.make(options)
    assert error.value.functions == ("compute_jacobian",)
    other = LanguageAlone(lambda: load_language_model(save_tiny(tmp_path / "other", seed=2)))
    keep(options, "tuned", {1: torch.zeros(32, 32)})
    kept = kept_file(options.folder(), "tuned", options.model.fingerprint())
    kept_file(options.folder(), "tuned", other.fingerprint()).write_bytes(kept.read_bytes())
    with pytest.raises(BankMismatch, match="is of llama-tiny, not of other"):
        TunedLens.make(LensOptions(other, data_dir=options.data_dir))
