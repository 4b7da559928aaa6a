"""Read speech: what each tenth of a second or so of a recording means to a model that hears.

    python -m examples.speech hello.wav --model mistralai/Voxtral-Mini-3B-2507 --sentences captions.txt --bank voxtral

The bank is filled with the model's own LLM from the sentences, unless it exists. Qwen2-Audio, Granite Speech and
Qwen2.5-Omni work in the same way.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import latentbank as lb


def main(given: Sequence[str] | None = None) -> lb.Reading:
    """Read a recording, and print the words of each of its tokens."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sound", help="an audio file")
    parser.add_argument("--model", default="mistralai/Voxtral-Mini-3B-2507")
    parser.add_argument("--bank", required=True)
    parser.add_argument("--data-dir", help="folder of embedded banks")
    parser.add_argument("--sentences", help="a text file to fill a new bank from")
    parser.add_argument(
        "--layers", help="layers that sound is read at, with commas; by default the middle ones"
    )
    asked = parser.parse_args(given)
    settings = {} if asked.data_dir is None else {"data_dir": asked.data_dir}
    model = lb.load_visual_model(asked.model)
    if asked.sentences and asked.bank not in lb.list_banks(**settings):
        middle = range(model.num_layers // 4, model.num_layers // 2 + 1)
        with lb.create_bank(asked.bank, model.language, layers=middle, **settings) as bank:
            lb.fill(bank, asked.sentences, model.language)
    with lb.open_bank(asked.bank, **settings) as bank:
        layers = [int(layer) for layer in asked.layers.split(",")] if asked.layers else None
        reading = lb.read_audio(bank, model, asked.sound, layers, bank_layers="all", top_k=3)
    for token in reading.tokens:
        words = ", ".join(neighbor.word for neighbor in token.neighbors)
        print(f"layer {token.layer:2d}, {token.label}: {words}")
    return reading


if __name__ == "__main__":
    main()
