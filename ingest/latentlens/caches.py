"""Caches of the reference library, latentlens, imported as a corpus.

Such a cache is a folder `layer_N` for each layer with a file `embeddings_cache.pt`: a dict of `embeddings`
`[n, hidden]` and `metadata`, a list of n dicts (`token_str`, `token_id`, `caption`, `position`). The prefix of a
context is not in it, but the caption and the token's position are, so the LLM's tokenizer gives it back, and with it
the context's id, its span and its word. Layers are numbered as ours are, but for the last one, which latentlens takes
after the final norm.

Files are opened twice: first all of them are checked, and it is noted which of a layer's rows are which contexts; then
they are stored. One layer's metadata is in memory at a time; its embeddings stay in the file, mapped.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from latentbank.bank.bank import Bank
from latentbank.bank.points import as_uuid
from latentbank.bank.search import prepare
from latentbank.bank.store.base import Points
from latentbank.bank.transfer.receive import MoveReport, Receiver, verify_corpora
from latentbank.errors import BankMismatch, CorpusError, LayerNotFound
from latentbank.ingest.latentlens.contexts import Cache, Survey
from latentbank.models.language.model import LanguageModel
from latentbank.progress import Progress, Silent

CACHE_FILE = "embeddings_cache.pt"
_FOLDER = re.compile(r"layer_(\d+)")


@dataclass(frozen=True)
class OfficialReport:
    """What an import came to.

    `move` is what was stored; `rows` counts the rows of the first layer's cache. Of all layers' rows, `repeated` were
    the same prefix again, `left_out` special tokens or a sentence's first token, `not_everywhere` contexts that another
    layer lacks. `cosines` are, by layer, the medians between the cache's vectors and the LLM's own.
    """

    move: MoveReport
    rows: int
    repeated: int
    left_out: int
    not_everywhere: int
    cosines: dict[int, float]


def official_layers(folder: Path, wanted: Sequence[int] | None = None) -> dict[int, Path]:
    """Find the layers of a cache: their files by number, ascending.

    Raises:
        CorpusError: there is none.
        LayerNotFound: one that is wanted is not there.
    """
    found = {
        int(match[1]): path / CACHE_FILE
        for path in folder.expanduser().glob("layer_*")
        if (match := _FOLDER.fullmatch(path.name)) and (path / CACHE_FILE).is_file()
    }
    if not found:
        raise CorpusError(f"{folder} holds no cache of latentlens: no layer_N/{CACHE_FILE} is in it.")
    missing = sorted(set(wanted or ()) - found.keys())
    if missing:
        raise LayerNotFound(
            f"The cache in {folder} has no layer {_listed(missing)}; it has {_listed(sorted(found))}."
        )
    return {layer: found[layer] for layer in sorted(found) if wanted is None or layer in wanted}


def import_official(
    bank: Bank,
    model: LanguageModel,
    folder: Path,
    name: str,
    progress: Progress | None = None,
    sample: int = 1000,
) -> OfficialReport:
    """Store a cache's contexts as a corpus of a bank, and verify it. Run again, it goes on where it stopped.

    Args:
        bank: open for writing; its layers are looked up in the cache.
        model: the LLM that the cache was made with, loaded as deep as the bank's deepest layer.
        folder: the cache.
        name: the corpus's name.
        progress: told rows checked, contexts stored, layers indexed, contexts compared.
        sample: how many vectors of each layer are verified.

    Raises:
        BankMismatch: the bank is of another LLM, or centred: a cache's vectors have lost the length that takes.
        CorpusError: a file is damaged, needs real unpickling, or its tokens are not the model's.
        LayerNotFound: the cache does not have a layer of the bank's, or has it after the final norm.
        ModelError: the vectors are not this model's hidden states.
    """
    progress = progress or Silent()
    bank.require_model(model.name, model.fingerprint())
    if bank.metric != "cosine":
        raise BankMismatch(
            f"The bank '{bank.name}' is centred, but vectors in caches of latentlens have length 1 and cannot be "
            "centred any more; import them into a bank of plain cosine."
        )
    if model.num_layers in bank.layers:
        raise LayerNotFound(
            f"Layer {model.num_layers}, the last of {model.name}, is taken after the final norm by latentlens and "
            "cannot be compared with hidden states; leave it out with --layers."
        )
    files = official_layers(folder, bank.layers)
    with tempfile.TemporaryDirectory(prefix="latentbank-") as scratch:
        survey = Survey(model, name, Path(scratch), progress)
        for layer, file in files.items():
            survey.add(layer, file)
        entry = survey.entry()
        receiver = Receiver(bank, [entry], progress)
        if receiver.todo:
            progress.stage("importing", "contexts")
            for layer, file in files.items():
                _store(bank, survey, layer, file, receiver)
        receiver.finish()
        wrong = verify_corpora(bank, bank.layers, [entry], sample, progress)
    move = MoveReport(bank.name, bank.layers, [name], entry.contexts, receiver.written, [], wrong)
    return OfficialReport(
        move, survey.rows, survey.repeated, survey.left_out, survey.not_everywhere(), survey.cosines
    )


def _store(bank: Bank, survey: Survey, layer: int, file: Path, receiver: Receiver) -> None:
    """Store one layer's contexts that are not there yet."""
    look = receiver.stored_contexts(layer, survey.corpus) > 0
    cache = Cache(file)
    for keys, payloads in survey.catalogue():
        ids = [as_uuid(key.ljust(16, b"\0")) for key in keys.tolist()]
        there = bank.store.present(layer, ids) if look else set()
        kept = [i for i, id_ in enumerate(ids) if id_ not in there]
        receiver.skip(len(there))
        if kept:
            rows = torch.from_numpy(survey.rows_of(layer, keys[kept]))
            states = cache.embeddings[rows].float().numpy()
            vectors = prepare(states, "embeddings", bank.hidden_size, bank.manifest.rotation_seed)
            receiver.put(layer, Points([ids[i] for i in kept], vectors, [payloads[i] for i in kept]))


def _listed(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers))
