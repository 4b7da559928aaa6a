"""Real contexts and real queries, encoded once and kept in a folder for `search.py`.

The folder holds `states.json` (what was encoded), `L04.npy` and so on (the LLM's hidden states, float32
`[contexts, hidden]`), `contexts.jsonl` (id and payload of each row) and `Q04.npy` and so on (float32
`[held-out, hidden]`: one token of each held-out sentence). Encoding that was interrupted continues where it stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.common import read_lines
from latentbank.progress import Progress, shown

CORPUS = "concepts"
_LOOK_AHEAD = 64


@dataclass(frozen=True)
class Request:
    """What to encode; a folder serves one request."""

    model: str
    fingerprint: str
    sentences: str
    contexts: int
    layers: tuple[int, ...]
    contexts_per_token: int
    held_out: int


@dataclass(frozen=True)
class States:
    """A folder of encoded states; the arrays are memory maps."""

    directory: Path
    about: dict[str, Any]

    @property
    def layers(self) -> list[int]:
        """Return the layers that were encoded."""
        return list(self.about["layers"])

    def hidden(self, layer: int) -> npt.NDArray[np.float32]:
        """Return hidden states of the contexts, float32 `[contexts, hidden]`."""
        array: npt.NDArray[np.float32] = np.load(self.directory / f"L{layer:02d}.npy", mmap_mode="r")
        return array

    def held_out(self, layer: int) -> npt.NDArray[np.float32]:
        """Return hidden states of the held-out tokens, float32 `[held-out, hidden]`."""
        array: npt.NDArray[np.float32] = np.load(self.directory / f"Q{layer:02d}.npy")
        return array

    def contexts(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield id and payload of each row."""
        with (self.directory / "contexts.jsonl").open(encoding="utf-8") as file:
            for line in file:
                id_, payload = json.loads(line)
                yield id_, payload


def open_states(directory: Path) -> States:
    """Return the states of a folder, which must be complete."""
    try:
        about = json.loads((directory / "states.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SystemExit(f"{directory} holds no states; give --model so that they can be made.") from None
    if not about["complete"]:
        raise SystemExit(f"The states in {directory} are not complete; make them with --states-only.")
    return States(directory, about)


def subset(states: States, count: int) -> npt.NDArray[np.intp]:
    """Return the numbers of `count` rows, evenly spread over all of them."""
    return np.linspace(0, states.about["contexts"] - 1, count).astype(np.intp)


def make_states(
    directory: Path,
    model: str,
    sentences: Path,
    contexts: int,
    layers: Sequence[int],
    contexts_per_token: int = 50,
    held_out: int = 1000,
) -> States:
    """Encode the first `contexts` contexts of the sentences; continue if a part of them is encoded.

    `held_out` sentences, evenly spread over the file, are held out.
    """
    from latentbank.ingest.corpus import corpus_from_sentences
    from latentbank.ingest.plan import PlanSettings, load_plan, same_request
    from latentbank.ingest.planning import make_plan
    from latentbank.models.language.model import load_language_model

    language = load_language_model(model, deepest_layer=max(layers))
    request = asdict(
        Request(
            Path(model).name,
            language.fingerprint(),
            sentences.name,
            contexts,
            tuple(sorted(layers)),
            contexts_per_token,
            held_out,
        )
    )
    request["layers"] = list(request["layers"])
    directory.mkdir(parents=True, exist_ok=True)
    head = directory / "states.json"
    about = json.loads(head.read_text(encoding="utf-8")) if head.exists() else None
    if about is not None and {key: about[key] for key in request if key != "model"} != {
        key: value for key, value in request.items() if key != "model"
    }:
        raise SystemExit(f"{directory} holds other states; choose another folder or delete it.")
    if about is not None and about["complete"]:
        return States(directory, about)

    lines = read_lines(sentences)
    out = {int(i) for i in np.linspace(0, len(lines) - 1, held_out)}
    kept = [line for i, line in enumerate(lines) if i not in out]
    settings = PlanSettings(contexts_per_token=contexts_per_token)
    plan = load_plan(directory / "plan")
    if plan is None or not same_request(plan, CORPUS, settings, language.identity()):
        with shown("planning", "sentences") as progress:
            plan = make_plan(
                corpus_from_sentences(CORPUS, kept), language, directory / "plan", settings, progress
            )
    if plan.contexts < contexts:
        raise SystemExit(
            f"All {len(kept):,} sentences give {plan.contexts:,} contexts; raise --contexts-per-token or ask for "
            "fewer contexts."
        )
    last, surplus = _cut(plan, contexts)
    about = request | {"used_sentences": last + 1, "complete": False}
    head.write_text(json.dumps(about, indent=1), encoding="utf-8")
    _encode_held_out(directory, language, [lines[i] for i in sorted(out)], layers)
    with shown("encoding", "contexts") as progress:
        _encode(directory, language, plan, last, surplus, contexts, sorted(layers), progress)
    about["complete"] = True
    head.write_text(json.dumps(about, indent=1), encoding="utf-8")
    return States(directory, about)


def _cut(plan: Any, contexts: int) -> tuple[int, int]:
    """Return the sentence with which `contexts` are reached, and the number of its contexts that are too many.

    Contexts are chosen in corpus order, so the first sentences of a plan are the plan of the first sentences.
    """
    counts = np.zeros(plan.sentences, dtype=np.int64)
    for sentence in plan.read():
        counts[sentence.sentence] = len(sentence.positions)
    reached = np.cumsum(counts)
    last = int(np.searchsorted(reached, contexts))
    return last, int(reached[last]) - contexts


def _encode(
    directory: Path,
    model: Any,
    plan: Any,
    last: int,
    surplus: int,
    contexts: int,
    layers: Sequence[int],
    progress: Progress,
) -> None:
    from latentbank.ingest.encode import encode

    def planned() -> Iterator[Any]:
        for sentence in plan.read():
            if sentence.sentence < last:
                yield sentence
            elif sentence.sentence == last:
                yield sentence.only(range(len(sentence.positions) - surplus)) if surplus else sentence

    arrays = {layer: _array(directory / f"L{layer:02d}.npy", contexts, model.hidden_size) for layer in layers}
    listed = directory / "contexts.jsonl"
    at, rest = _continue(listed, planned())
    began = time.monotonic()
    with listed.open("a", encoding="utf-8") as file:
        for batch in encode(model, CORPUS, rest, layers):
            end = at + len(batch.ids)
            for layer, array in arrays.items():
                array[at:end] = batch.states[layer]
            pairs = zip(batch.ids, batch.payloads, strict=True)
            file.writelines(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)
            at = end
            progress.update(at, contexts)
    for array in arrays.values():
        array.flush()
    if at != contexts:
        raise SystemExit(f"{directory}: {at:,} contexts came out instead of {contexts:,}; delete it.")
    print(f"encoded in {time.monotonic() - began:,.0f} s")


def _continue(listed: Path, planned: Iterator[Any]) -> tuple[int, Iterator[Any]]:
    """Return how many contexts are encoded, in whole sentences, and the sentences still to encode."""
    if not listed.exists():
        return 0, planned
    with listed.open("rb") as file:
        ends = [0]
        for line in file:
            if line.endswith(b"\n"):
                ends.append(ends[-1] + len(line))
    done = 0
    unfinished: list[Any] = []
    for sentence in planned:
        if done + len(sentence.positions) > len(ends) - 1:
            unfinished = [sentence]
            break
        done += len(sentence.positions)
    with listed.open("r+b") as torn:
        torn.truncate(ends[done])

    def rest() -> Iterator[Any]:
        yield from unfinished
        yield from planned

    return done, rest()


def _array(path: Path, rows: int, width: int) -> Any:
    mode = "r+" if path.exists() else "w+"
    return np.lib.format.open_memmap(path, mode=mode, dtype=np.float32, shape=(rows, width))


def _encode_held_out(directory: Path, model: Any, sentences: Sequence[str], layers: Sequence[int]) -> None:
    """Write the hidden states of one token of each held-out sentence, never the first one: it has no context."""
    random = np.random.default_rng(7)
    chosen: dict[int, list[npt.NDArray[np.float32]]] = {layer: [] for layer in layers}
    for at in range(0, len(sentences), _LOOK_AHEAD):
        ids = [model.encode(sentence) for sentence in sentences[at : at + _LOOK_AHEAD]]
        places = [int(random.integers(1, len(tokens))) if len(tokens) > 1 else 0 for tokens in ids]
        ids = [tokens[: place + 1] for tokens, place in zip(ids, places, strict=True)]
        for states in model.hidden_states(ids, layers):
            for layer in layers:
                chosen[layer].append(states[layer][-1].float().cpu().numpy())
    for layer, rows in chosen.items():
        np.save(directory / f"Q{layer:02d}.npy", np.stack(rows))
