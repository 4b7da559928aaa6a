"""Linear layers whose weights are stored in oneDNN's layout for the processor.

PyTorch multiplies float32 matrices on the CPU with MKL, which reaches less than half of the speed of some AMD
processors. oneDNN is faster where there is AVX-512 (benchmarks/linear.py compares them: 2.3 times on an AMD Zen 5, 1.1
times on a Zen 4), and the results agree up to float32 rounding. With AVX2 alone the two are equal (0.9 to 1.05 times on
a Zen 3), and in bfloat16 they are the same code (1.0 times on a Zen 4), so that nothing is prepacked then. Only frozen
layers are replaced: gradients flow to the input, never to the weights.
"""

from __future__ import annotations

import platform
from collections.abc import Collection, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from latentbank.models.language.devices import in_memory
from latentbank.models.language.sampling import sampled


class PrepackedLinear(nn.Module):
    """A frozen float32 `nn.Linear` on the CPU in oneDNN's layout; the ordinary weights are freed.

    Its state dict holds the ordinary `weight` and `bias`, so that a model can still be saved.

    Attributes:
        in_features: width of the input.
        out_features: width of the output.
        packed_sample: the sample of the weights, for digests.
    """

    def __init__(self, linear: nn.Linear) -> None:
        """Pack the weights of `linear`."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        # Unpacking all weights for a digest takes as long as packing them.
        self.packed_sample = sampled(linear.weight)
        self._packed = _pack(linear.weight.detach())
        self._transposed: Tensor | None = None
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the product with `x` [..., in_features] float32, [..., out_features]."""
        if torch.is_grad_enabled() and x.requires_grad:
            return cast(Tensor, cast(Any, _WithGradient).apply(x, self))
        return _multiply(x, self._packed, self.bias)

    @property
    def weight(self) -> Tensor:
        """The ordinary weights [out_features, in_features], unpacked at each access."""
        return self._packed.to_dense().reshape(self.out_features, self.in_features)

    def transposed(self) -> Tensor:
        """Return the packed transpose, which is computed when a gradient first needs it."""
        if self._transposed is None:
            self._transposed = _pack(self.weight.T)
        return self._transposed

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.weight

    def extra_repr(self) -> str:
        """Return what `repr` of a model shows for this layer."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        )


def prepack(module: nn.Module) -> int:
    """Replace, in place, every frozen float32 `nn.Linear` on the CPU by a `PrepackedLinear`.

    Returns:
        The number of replaced layers: 0 on other devices and dtypes, on processors where it is not faster, or if
        PyTorch was built without oneDNN.
    """
    if not available():
        return 0
    replaced = 0
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and _can_pack(child):
                setattr(parent, name, PrepackedLinear(child))
                replaced += 1
    return replaced


def unpack(module: nn.Module) -> None:
    """Replace, in place, every `PrepackedLinear` by an ordinary `nn.Linear`, whose weights can be trained."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, PrepackedLinear):
                linear = nn.Linear(child.in_features, child.out_features, child.bias is not None, "meta")
                linear.weight = nn.Parameter(child.weight.clone(), requires_grad=False)
                if child.bias is not None:
                    linear.bias = child.bias
                setattr(parent, name, linear)


def weights(module: nn.Module, without: Collection[nn.Module] = ()) -> Iterator[Tensor]:
    """Yield the weights of a module as they were before prepacking, in no fixed order, those of some parts left out."""
    left_out = {id(child) for part in without for child in part.modules()}
    for child in module.modules():
        if id(child) in left_out:
            continue
        with in_memory(child):
            yield from child.parameters(recurse=False)
        if isinstance(child, PrepackedLinear):
            yield child.weight


def available() -> bool:
    """Return whether PyTorch can prepack for this processor, and multiplies faster then."""
    return (
        platform.machine().lower() in ("x86_64", "amd64")
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and cast(Any, torch.backends.mkldnn).is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


def _can_pack(linear: nn.Linear) -> bool:
    weight = linear.weight
    return weight.dtype == torch.float32 and weight.device.type == "cpu" and not weight.requires_grad


def _pack(weight: Tensor) -> Tensor:
    return cast(Tensor, torch.ops.mkldnn._reorder_linear_weight(weight.contiguous()))


def _multiply(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], ""))


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: PrepackedLinear) -> Tensor:
        ctx.layer = layer
        return _multiply(x, layer._packed, layer.bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _multiply(gradient.contiguous(), ctx.layer.transposed(), None), None
