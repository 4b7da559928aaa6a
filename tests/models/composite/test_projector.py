"""Projectors: shapes, standardization, and their files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from latentbank.errors import ModelError
from latentbank.models.composite.projector import Projector, load_projector, save_projector


@pytest.mark.parametrize(("kind", "layers"), [("linear", 1), ("mlp", 2), ("mlp3", 3)])
def test_kinds(kind: str, layers: int) -> None:
    projector = Projector(kind, 6, 10, width=14)
    linears = [layer for layer in projector.layers if isinstance(layer, nn.Linear)]
    assert len(linears) == layers
    assert len(projector.layers) == 2 * layers - 1
    assert (linears[0].in_features, linears[-1].out_features) == (6, 10)
    assert all(layer.out_features == 14 for layer in linears[:-1])
    assert projector(torch.randn(2, 3, 6, dtype=torch.float16)).shape == (2, 3, 10)
    with pytest.raises(ModelError, match="linear, mlp, mlp3"):
        Projector("mlp4", 6, 10)


def test_swiglu_is_three_matrices_over_the_features_as_they_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    projector = Projector("swiglu", 8, 10, width=14, padding=True, added=3)
    assert {name: tuple(weight.shape) for name, weight in projector.state_dict().items()} == {
        "layers.gate.weight": (14, 6),
        "layers.up.weight": (14, 6),
        "layers.down.weight": (10, 14),
        "pad": (2, 6),
        "added": (3, 10),
    }
    assert 0.01 < projector.layers.gate.weight.std().item() < 0.03
    with torch.no_grad():
        projector.pad.normal_()
    features, marks = torch.randn(4, 6) * 50, torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    gate, up, down = (getattr(projector.layers, name).weight for name in ("gate", "up", "down"))
    shifted = features + torch.stack([torch.zeros(6), projector.pad[0], projector.pad[1], torch.zeros(6)])
    x = shifted @ gate.T
    torch.testing.assert_close(
        projector(torch.cat([features, marks], dim=1)), (x * torch.sigmoid(x) * (shifted @ up.T)) @ down.T
    )
    projector.fit(torch.cat([features, marks], dim=1), scale=0.2)
    assert projector(torch.cat([features, marks], dim=1)).pow(2).mean().sqrt().item() == pytest.approx(0.2)
    save_projector(tmp_path / "p.safetensors", projector, {}, torch.float32)
    loaded, card = load_projector(tmp_path / "p.safetensors")
    assert card["projector"] == projector.shape()
    for name, weight in projector.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name


def test_features_are_standardized_and_clamped() -> None:
    torch.manual_seed(0)
    sample = torch.randn(500, 4) * torch.tensor([1.0, 100.0, 0.01, 0.0]) + torch.tensor([0.0, 7.0, -3.0, 5.0])
    projector = Projector("linear", 4, 4)
    projector.fit(sample, scale=0.2)
    assert projector(sample).pow(2).mean().sqrt().item() == pytest.approx(0.2, rel=1e-3)
    with torch.no_grad():
        projector.layers[0].weight.copy_(torch.eye(4))
        projector.layers[0].bias.zero_()
    out = projector(sample)
    torch.testing.assert_close(out.mean(dim=0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        out.std(dim=0, unbiased=False), torch.tensor([1.0, 1.0, 1.0, 0.0]), atol=1e-3, rtol=0
    )
    far = projector(torch.tensor([[1e4, -1e6, 0.0, 5.0]]))[0]
    assert far.tolist() == [6, -6, 6, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_file_and_its_card(tmp_path: Path, dtype: torch.dtype) -> None:
    projector = Projector("mlp3", 6, 10, width=14)
    projector.fit(torch.randn(100, 6) * 1e-4 + 1e5, scale=1.0)
    save_projector(tmp_path / "p.safetensors", projector, {"llm": {"name": "é"}}, dtype)
    loaded, card = load_projector(tmp_path / "p.safetensors")
    assert card["llm"] == {"name": "é"}
    assert card == json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))
    assert card["projector"] == {"kind": "mlp3", "features": 6, "hidden_size": 10, "width": 14}
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert torch.equal(loaded.mean, projector.mean)  # stays float32, because float16 cannot hold it
    stored = load_file(tmp_path / "p.safetensors")
    assert stored["layers.0.weight"].dtype == dtype
    for name, tensor in projector.state_dict().items():
        rounded = tensor.to(dtype).float() if name.startswith("layers") else tensor
        assert torch.equal(loaded.state_dict()[name], rounded)


def test_weights_too_large_for_float16_stay_float32(tmp_path: Path) -> None:
    projector = Projector("linear", 2, 2)
    with torch.no_grad():
        projector.layers[0].weight.fill_(1e6)
    save_projector(tmp_path / "p.safetensors", projector, {})
    assert float(load_projector(tmp_path / "p.safetensors")[0].layers[0].weight[0, 0]) == 1e6


def test_files_that_hold_no_projector(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no projector at"):
        load_projector(tmp_path / "nothing.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"broken")
    with pytest.raises(ModelError, match="damaged"):
        load_projector(tmp_path / "broken.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="no card"):
        load_projector(tmp_path / "other.safetensors")
    save_projector(tmp_path / "p.safetensors", Projector("linear", 2, 2), {})
    whole = (tmp_path / "p.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-4])
    with pytest.raises(ModelError, match="damaged"):
        load_projector(tmp_path / "cut.safetensors")
    tensors = load_file(tmp_path / "p.safetensors")
    text = (tmp_path / "p.json").read_text()
    save_file(tensors, tmp_path / "unlike.safetensors", {"card": text.replace('"linear"', '"mlp"')})
    with pytest.raises(ModelError, match="do not fit"):
        load_projector(tmp_path / "unlike.safetensors")
