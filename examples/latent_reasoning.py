"""Read latent reasoning steps: hidden states that are fed back as inputs, as in Coconut (Hao et al. 2024).

    python -m examples.latent_reasoning "Anna has three apples and eats one. How many are left?" --bank captions

A step is one forward pass: the state after the last block and the final norm is the next position's input, without
going through a token (arXiv 2412.06769). Coconut trains a model to use such steps. A model that was not trained so, as
the bank's own LLM, only shows how they are read.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import latentbank as lb


def steps_of(name: str, question: str, steps: int) -> torch.Tensor:
    """Return the hidden states of the steps' positions, [layers, steps, hidden], without the last layer."""
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32).eval()
    inputs = model.get_input_embeddings()(tokenizer(question, return_tensors="pt").input_ids)
    found, cache = [], None
    with torch.no_grad():
        for step in range(steps + 1):
            out = model(
                inputs_embeds=inputs, past_key_values=cache, use_cache=True, output_hidden_states=True
            )
            if step:  # the first pass is over the question
                found.append(torch.stack(out.hidden_states[:-1])[:, 0, -1])
            inputs, cache = out.hidden_states[-1][:, -1:], out.past_key_values
    return torch.stack(found, dim=1)


def main(given: Sequence[str] | None = None) -> lb.Reading:
    """Run the steps, read them at some layers, and print what they say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question")
    parser.add_argument("--bank", required=True)
    parser.add_argument("--data-dir", help="folder of embedded banks")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--layers", help="with commas; by default those of the bank")
    asked = parser.parse_args(given)
    settings = {} if asked.data_dir is None else {"data_dir": asked.data_dir}
    with lb.open_bank(asked.bank, **settings) as bank:
        states = steps_of(bank.find_model(), asked.question, asked.steps)
        # The last layer is left out: transformers gives it after the final norm.
        layers = map(int, asked.layers.split(",")) if asked.layers else bank.layers
        reading = lb.read_hidden(
            bank,
            {layer: states[layer] for layer in layers if layer < len(states)},
            labels=[f"step {n}" for n in range(1, asked.steps + 1)],
            source=asked.question,
            bank_layers="all",
        )
    print(reading)
    return reading


if __name__ == "__main__":
    main()
