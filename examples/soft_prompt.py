"""Read a soft prompt: tune peft's prompt until the model says a word, then ask a bank what its virtual tokens mean.

    python -m examples.soft_prompt --bank captions --word dog

It uses the bank's own LLM. `benchmarks/soft_prompts.py` does so for many words, beside random prompts.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from peft import PromptTuningConfig, PromptTuningInit, TaskType, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import latentbank as lb


def tuned(name: str, word: str, virtual_tokens: int, steps: int, enough: float) -> torch.Tensor:
    """Return the hidden states of a prompt after which the model says the word: [layers, virtual tokens, hidden].

    It is to say the word after the prompt alone, and after a short text behind it: then the prompt itself has to hold
    the word, and not only what the next token needs.
    """
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(name)
    base = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    config = PromptTuningConfig(
        task_type=TaskType.CAUSAL_LM,
        num_virtual_tokens=virtual_tokens,
        prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB,  # as ordinary tokens
    )
    model = get_peft_model(base, config)  # only the prompt can be trained
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.03)
    target = tokenizer(f" {word}").input_ids
    rows = [(before, before + target) for before in ([], tokenizer(" The word is").input_ids)]
    taken = 0
    while True:
        losses = [
            model(
                input_ids=torch.tensor([ids]), labels=torch.tensor([[-100] * len(before) + target])
            ).loss  # of the word alone; peft puts the virtual tokens before the text
            for before, ids in rows
        ]
        sure = (-torch.stack(losses).max()).exp()
        if sure >= enough or taken == steps:
            break
        optimizer.zero_grad()
        sum(losses).backward()
        optimizer.step()
        taken += 1
    print(f"After {taken} steps the model says {word!r} with a probability of {sure:.2f}.")
    with torch.no_grad():
        prompt = model.get_prompt(batch_size=1)
        # The last of hidden_states is after the final norm, so it is left out.
        states = base(inputs_embeds=prompt, output_hidden_states=True).hidden_states[:-1]
    return torch.stack(states)[:, 0]


def main(given: Sequence[str] | None = None) -> lb.Reading:
    """Tune a prompt, read it at one layer, and print what it says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bank", required=True)
    parser.add_argument("--data-dir", help="folder of embedded banks")
    parser.add_argument("--word", default="dog")
    parser.add_argument("--virtual-tokens", type=int, default=4)
    parser.add_argument("--steps", type=int, default=200, help="at most")
    parser.add_argument(
        "--enough", type=float, default=0.99, help="probability of the word at which tuning ends"
    )
    parser.add_argument("--layer", type=int, help="by default a quarter of the LLM's depth")
    asked = parser.parse_args(given)
    settings = {} if asked.data_dir is None else {"data_dir": asked.data_dir}
    with lb.open_bank(asked.bank, **settings) as bank:
        states = tuned(bank.find_model(), asked.word, asked.virtual_tokens, asked.steps, asked.enough)
        layer = bank.manifest.num_layers // 4 if asked.layer is None else asked.layer
        reading = lb.read_hidden(
            bank,
            {layer: states[layer]},
            labels=[f"virtual token {n}" for n in range(1, len(states[layer]) + 1)],
            source=f"a prompt for {asked.word!r}",
            bank_layers="all",
        )
    print(reading)
    return reading


if __name__ == "__main__":
    main()
