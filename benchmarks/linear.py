"""Linear layers of SmolLM2-135M in float32 on the CPU: PyTorch's own against the prepacked ones.

python -m benchmarks.linear
"""

from __future__ import annotations

import time

import torch
from torch import nn

from benchmarks.common import Row, machine, parser_of, show
from benchmarks.limits import gemm_speed
from latentbank.models.language.prepacked import PrepackedLinear

TOKENS = 1024  # in one forward pass on the CPU
# Input and output width: queries and output, keys and values, the MLP up and down.
SHAPES = ((576, 576), (576, 192), (576, 1536), (1536, 576))
_ROUNDS, _REPEATS = 5, 20


def main() -> None:
    """Time both for each shape, in turns, and print billions of operations per second."""
    parser_of("benchmarks.linear", __doc__).parse_args()
    rows, limit = [], gemm_speed(torch.float32) / 1e9
    for width, out in SHAPES:
        linear = nn.Linear(width, out, bias=False).requires_grad_(False)
        layers, x = (linear, PrepackedLinear(linear)), torch.randn(TOKENS, width)
        best = [0.0, 0.0]
        with torch.inference_mode():
            for _ in range(_ROUNDS):
                for i, layer in enumerate(layers):
                    layer(x)  # to warm up
                    began = time.perf_counter()
                    for _ in range(_REPEATS):
                        layer(x)
                    seconds = (time.perf_counter() - began) / _REPEATS
                    best[i] = max(best[i], 2 * TOKENS * width * out / seconds / 1e9)
        rows.append(
            Row(
                f"{width} to {out}, GFLOP/s",
                f"{best[0]:.0f}",
                f"{best[1]:.0f}",
                best[1] / best[0],
                share=best[1] / limit,
                limit=f"a large product, {limit:.0f}",
            )
        )
    show("Linear layers: nn.Linear against PrepackedLinear", {"tokens": TOKENS}, rows, machine())


if __name__ == "__main__":
    main()
