"""Prepacked linear layers against PyTorch's own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from latentbank.models.language.model import load_language_model
from latentbank.models.language.prepacked import PrepackedLinear, available, prepack, weights

pytestmark = pytest.mark.skipif(not available(), reason="this processor or PyTorch has no such layout")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 24), (37, 24), (5, 9, 24), (0, 24)])
def test_gives_what_the_linear_layer_gives(bias: bool, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(24, 40, bias=bias).requires_grad_(False)
    x = torch.randn(shape)
    assert torch.allclose(PrepackedLinear(linear)(x), linear(x), atol=1e-5)


def test_takes_rows_that_are_not_contiguous() -> None:
    linear = nn.Linear(24, 40).requires_grad_(False)
    x = torch.randn(24, 8).T
    assert torch.allclose(PrepackedLinear(linear)(x), linear(x), atol=1e-5)


def test_the_gradient_reaches_the_input() -> None:
    linear = nn.Linear(24, 40).requires_grad_(False)
    packed = PrepackedLinear(linear)
    x, y = (torch.linspace(-1, 1, 72).reshape(3, 24).requires_grad_() for _ in range(2))
    linear(x).square().sum().backward()
    packed(y).square().sum().backward()
    assert x.grad is not None
    assert y.grad is not None
    assert torch.allclose(x.grad, y.grad, rtol=1e-5, atol=1e-5)


def test_only_frozen_float32_layers_are_swapped() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 4).half())
    module[2].requires_grad_(False)
    assert prepack(module) == 1
    assert [type(layer) for layer in module] == [nn.Linear, PrepackedLinear, nn.Linear]


def test_no_weight_is_lost() -> None:
    plain = nn.Sequential(nn.Linear(4, 6), nn.Sequential(nn.Linear(6, 3, bias=False))).requires_grad_(False)
    packed = copy.deepcopy(plain)
    assert prepack(packed) == 2
    assert {name: value.tolist() for name, value in packed.state_dict().items()} == {
        name: value.tolist() for name, value in plain.state_dict().items()
    }
    assert sorted(value.sum().item() for value in weights(packed)) == sorted(
        value.sum().item() for value in plain.parameters()
    )


def test_a_saved_model_is_the_one_that_was_loaded(saved: Callable[[str], str], tmp_path: Path) -> None:
    model = load_language_model(saved("llama"), device="cpu", dtype="float32")
    assert any(isinstance(layer, PrepackedLinear) for layer in model._decoder.modules())
    model.save(tmp_path)
    again = load_language_model(str(tmp_path), device="cpu", dtype="float32")
    assert again.fingerprint() == model.fingerprint()
    ids = [[5, 6, 7, 8]]
    last = model.num_layers
    assert torch.equal(model.hidden_states(ids, [last])[0][last], again.hidden_states(ids, [last])[0][last])


def test_nothing_is_prepacked_where_it_is_not_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert prepack(nn.Sequential(nn.Linear(4, 4)).requires_grad_(False)) == 0
