"""Dtypes and quantizations of one checkpoint: how far hidden states and neighbors differ, and whether digests agree.

    python -m benchmarks.dtypes --model DIR --sentences 60 --json dtypes.json

The model in float32 is the reference. Every other form runs the same sentences: 1 - cosine of each token's hidden
state at some layers, first tokens left out; and the share of tokens whose nearest context is the reference's, among
contexts of other sentences in float32, at some layers. `tuned` is the float32 model whose weights of one later block
were changed by random noise of that share of their size; its digests must not agree.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.common import (
    Row,
    machine,
    model_file,
    parser_of,
    read_lines,
    sentences_file,
    show,
    write_json,
)
from latentbank.identity import difference
from latentbank.models.language.fingerprint import identify
from latentbank.models.language.model import LanguageModel, load_language_model
from latentbank.text import layer_numbers

States = dict[int, npt.NDArray[np.float32]]

FORMS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "float16": {"dtype": "float16"},
    "8bit": {"dtype": "float32", "load_in": "8bit"},
    "4bit": {"dtype": "float32", "load_in": "4bit"},
}
NOISE = (1e-3, 3e-3, 1e-2, 3e-2)
"""Sizes of the changes of a block's weights, as shares of each weight."""
_TIE = 1e-5  # of cosines that count as equal


def main() -> None:
    """Measure every form and print the table."""
    arguments = _parser().parse_args()
    layers = layer_numbers(arguments.layers)
    lines = read_lines(sentences_file())
    step = len(lines) // (arguments.contexts + arguments.sentences)
    chosen = lines[:: max(1, step)]
    asked, others = chosen[: arguments.sentences], chosen[arguments.sentences :][: arguments.contexts]
    results: dict[str, Any] = {}
    reference = load_language_model(arguments.model, device="cpu", **FORMS["float32"])
    began = time.perf_counter()
    identity = reference.identity()
    results["digest_seconds"] = round(time.perf_counter() - began, 3)
    contexts = hidden(reference, others, layers)
    truth = hidden(reference, asked, layers)
    results["tuned"] = dict(tuned(reference))
    forms = arguments.forms.split(",")
    for name in forms:
        options = FORMS[name]
        model = load_language_model(arguments.model, device="cpu", **options)
        found = hidden(model, asked, layers)
        results[name] = {
            "differs": difference(identity, model.identity()),
            "layers": {
                layer: {
                    "mean": float(np.mean(gap)),
                    "most": float(np.max(gap)),
                    "same": kept(contexts[layer], truth[layer], found[layer]),
                }
                for layer in layers
                for gap in [gaps(truth[layer], found[layer])]
            },
        }
        del model
    about = {
        "model": Path(arguments.model).name,
        "sentences": len(asked),
        "contexts": len(contexts[layers[0]]),
    }
    rows = [
        Row(
            f"{name}, layer {layer}",
            f"{at['mean']:.1e}, at most {at['most']:.1e}",
            f"{at['same']:.3f}",
            None,
        )
        for name in forms
        for layer, at in results[name]["layers"].items()
    ]
    where = machine()
    show("Dtypes of one checkpoint against float32", about, rows, where, ("1 - cosine", "nearest kept"))
    for name in (*forms, "tuned"):
        print(name, results[name]["differs"] if name != "tuned" else results[name])
    print(f"digests of {reference.num_layers} blocks: {results['digest_seconds']} s")
    write_json(arguments.json, about, rows, results, where)


def hidden(model: LanguageModel, sentences: Sequence[str], layers: Sequence[int]) -> States:
    """Return the hidden states of all tokens but the first of each sentence, by layer `[tokens, hidden]`."""
    found: dict[int, list[npt.NDArray[np.float32]]] = {layer: [] for layer in layers}
    for start in range(0, len(sentences), 16):
        ids = [model.encode(sentence) for sentence in sentences[start : start + 16]]
        for states in model.hidden_states(ids, layers):
            for layer in layers:
                found[layer].append(states[layer][1:].float().cpu().numpy())
    return {layer: np.concatenate(rows) for layer, rows in found.items()}


def gaps(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return 1 - cosine of each row of two arrays `[n, hidden]`."""
    return 1 - np.sum(_unit(one) * _unit(other), axis=1)


def kept(
    contexts: npt.NDArray[np.float32], truth: npt.NDArray[np.float32], queries: npt.NDArray[np.float32]
) -> float:
    """Return the share of queries whose nearest context is the nearest one to the true hidden state, too.

    Sentences that begin alike have equal contexts, so a context as near as the nearest one counts.
    """
    rows = _unit(contexts)
    cosines = _unit(truth) @ rows.T
    found = np.argmax(_unit(queries) @ rows.T, axis=1)
    return float(np.mean(cosines[np.arange(len(found)), found] >= cosines.max(axis=1) - _TIE))


def tuned(model: LanguageModel) -> Iterator[tuple[str, bool]]:
    """Yield, for each size of noise and dtype, whether a change of one matrix or one whole block is told.

    The forms are those that banks and models are compared in: exact digests, and sketches of float16 against float32.
    """
    block = model.decoder.get_submodule("layers.7")
    sizes = (model.hidden_size, model.num_layers, model.vocab_size)

    def identity_of(blocks: Sequence[torch.nn.Module], dtype: torch.dtype) -> Any:
        embedding = model.decoder.get_input_embeddings()
        return identify(model.tokenizer.get_vocab(), sizes, embedding, blocks, dtype)

    plain = identity_of([block], torch.float32)
    for noise in NOISE:
        for what, chosen in (("block", ""), ("down_proj", "down_proj")):
            changed = _changed(block, noise, chosen)
            for dtype in (torch.float32, torch.float16):
                other = identity_of([changed.to(dtype)], dtype)
                yield f"{what} {noise:g} {str(dtype).removeprefix('torch.')}", bool(difference(plain, other))


def _changed(block: torch.nn.Module, noise: float, chosen: str) -> torch.nn.Module:
    """Return the weights of a block as plain parameters, changed by noise where their name contains `chosen`."""
    torch.manual_seed(0)
    copy = torch.nn.Module()
    for number, (name, weight) in enumerate(block.state_dict().items()):
        value = weight.float().clone()
        if chosen in name:
            value *= 1 + noise * torch.randn_like(value)
        copy.register_parameter(f"weight_{number}", torch.nn.Parameter(value, requires_grad=False))
    return copy


def _unit(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    wide = rows.astype(np.float64)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("benchmarks.dtypes", __doc__)
    add: Callable[..., Any] = parser.add_argument
    add("--model", default=str(model_file()), help="folder or .gguf file; by default SmolLM2-135M-Instruct")
    add("--forms", default=",".join(list(FORMS)[1:]), help="forms that are compared with float32")
    add("--layers", default="1,4,8,12,16,24,30", help="layers that are compared")
    add("--sentences", type=int, default=60, help="sentences that every form runs")
    add("--contexts", type=int, default=400, help="other sentences, among whose contexts neighbors are found")
    add("--json", type=Path, help="file to write")
    return parser


if __name__ == "__main__":
    main()
