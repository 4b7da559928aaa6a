"""Collect hidden states with nnsight, save them with the model's fingerprint, and read the file against a bank.

    python -m examples.nnsight_states "The dog chased a cat." --bank captions --layers 8,16 --output dog.safetensors

It uses the bank's own LLM. `latentbank query states dog.safetensors` reads the file again, on any machine.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

import torch
from nnsight import NNsight
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import latentbank as lb
from latentbank.query.reading.states import read_states


def collected(model: Any, inputs: Any, layers: Sequence[int]) -> dict[int, torch.Tensor]:
    """Return by layer the hidden states [tokens, hidden] of one sentence.

    Block number l - 1 of transformers gives out layer l. Within a trace, modules are named in the order they run.
    """
    traced = NNsight(model)
    states = {}
    with traced.trace(**inputs):
        for layer in sorted(layers):
            states[layer] = traced.model.layers[layer - 1].output.save()
    return {layer: state.detach()[0] for layer, state in states.items()}


def main(given: Sequence[str] | None = None) -> lb.Reading:
    """Collect, save and read the hidden states of a sentence."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sentence")
    parser.add_argument("--bank", required=True)
    parser.add_argument("--data-dir", help="folder of embedded banks")
    parser.add_argument("--layers", default="8,16", help="from 1 on")
    parser.add_argument("--output", default="states.safetensors")
    asked = parser.parse_args(given)
    layers = [int(layer) for layer in asked.layers.split(",")]
    settings = {} if asked.data_dir is None else {"data_dir": asked.data_dir}
    with lb.open_bank(asked.bank, **settings) as bank:
        name = bank.find_model()
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32).eval()
        inputs = tokenizer(asked.sentence, return_tensors="pt")
        states = collected(model, inputs, layers)
        about = {
            "model": bank.manifest.model,
            "fingerprint": lb.load_language_model(name, deepest_layer=1).fingerprint(),
            "labels": json.dumps(tokenizer.batch_decode(inputs.input_ids[0][:, None])),
        }
        save_file({f"layer_{n}": rows.contiguous() for n, rows in states.items()}, asked.output, about)
        reading = read_states(asked.output, [lb.LatentLens(bank, "all")])
    print(reading)
    return reading


if __name__ == "__main__":
    main()
