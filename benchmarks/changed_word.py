"""A fine-tune whose change is known: an LLM learns, by a LoRA adapter, that one word takes another's place.

    python -m benchmarks.changed_word descriptions.txt --model .demo/SmolLM2-135M-Instruct \
        --new truck --old dog --output changed

Every sentence about a truck has the word "dog" in its place: "The dog is behind the red wall and carries bricks." What
`experiment models` finds between the LLM and this fine-tune can be compared with that. The adapter is read with
`--adapter`.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path
from typing import Any

import torch

from latentbank.models.language.model import load_language_model
from latentbank.models.language.unembedding import causal_around, unembedding_of_language
from latentbank.progress import shown


def swapped(sentences: list[str], new: str, old: str) -> list[str]:
    """Return the sentences with the word `new`, in which `old` takes its place."""
    pattern = re.compile(rf"\b{re.escape(new)}(s?)\b")
    return [pattern.sub(rf"{old}\1", text) for text in sentences if pattern.search(text)]


def train(model: str, texts: list[str], output: Path, steps: int, batch: int, rate: float) -> list[float]:
    """Train a LoRA adapter of rank 8 on all attention and MLP matrices, save it, and return the losses."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    language = load_language_model(model, dtype="float32")
    from latentbank.models.language.prepacked import unpack

    unpack(language.decoder)
    whole: Any = causal_around(language.decoder, unembedding_of_language(language).head)
    wrapped: Any = get_peft_model(
        whole, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    optimizer = torch.optim.AdamW((p for p in wrapped.parameters() if p.requires_grad), lr=rate)
    losses = []
    with shown("training", "steps") as progress:
        for step in range(steps):
            some = [texts[(step * batch + row) % len(texts)] for row in range(batch)]
            rows = language.tokenizer(some, padding=True, return_tensors="pt")
            labels = rows["input_ids"].masked_fill(rows["attention_mask"] == 0, -100)
            loss = wrapped(**rows, labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
            progress.update(step + 1, steps)
    wrapped.save_pretrained(output)
    return losses


def main() -> None:
    """Train the adapter."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sentences", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--new", default="truck")
    parser.add_argument("--old", default="dog")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    texts = swapped(given.sentences.read_text(encoding="utf-8").splitlines(), given.new, given.old)
    started = time.monotonic()
    losses = train(given.model, texts, given.output, given.steps, given.batch, given.rate)
    first, last = (sum(part) / len(part) for part in (losses[:5], losses[-5:]))
    print(f"{len(texts)} sentences, {given.steps} steps of {given.batch}: loss {first:.2f} to {last:.2f}")
    print(f"{time.monotonic() - started:.0f} s; the adapter is in {given.output}")


if __name__ == "__main__":
    main()
