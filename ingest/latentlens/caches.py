"""Import caches of the reference library, latentlens, as a corpus.

Such a cache is a folder `layer_N` for each layer with a file `embeddings_cache.pt`: a dict of `embeddings`
`[n, hidden]` and `metadata`, a list of n dicts (`token_str`, `token_id`, `caption`, `position`). It does not hold the
prefix of a context, but the caption and the token's position, from which the LLM's tokenizer restores the prefix, and
with it the context's id, its span and its word. Layers are numbered as ours are, except that latentlens takes the last
one after the final norm.

Each file is opened twice. First all files are checked, and for each layer the rows of its contexts are noted; then the
contexts are stored. The metadata of one layer at a time is in memory; its embeddings stay in the file, mapped.
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
from latentbank.ingest.latentlens.contexts import Cache, CacheContents
from latentbank.models.language.model import LanguageModel
from latentbank.progress import Progress, Silent
from latentbank.text import listed

CACHE_FILE = "embeddings_cache.pt"
"""Name of a layer's file in a cache."""
_FOLDER = re.compile(r"layer_(\d+)")


@dataclass(frozen=True)
class CacheReport:
    """What an import did.

    Attributes:
        move: what was stored.
        rows: rows of the first layer's file.
        repeated: rows of all layers that repeat the prefix of an earlier row.
        left_out: rows of all layers with a special token or a sentence's first token.
        not_everywhere: rows of all layers with a context that another layer lacks.
        cosines: by layer, the median cosine between vectors of the cache and the LLM's own hidden states.
    """

    move: MoveReport
    rows: int
    repeated: int
    left_out: int
    not_everywhere: int
    cosines: dict[int, float]


def cache_layers(folder: Path, layers: Sequence[int] | None = None) -> dict[int, Path]:
    """Return the files of a cache by layer, ascending.

    Args:
        folder: the cache.
        layers: the layers asked for; None: all that it has.

    Raises:
        CorpusError: the folder holds no cache.
        LayerNotFound: the cache lacks one of the layers.
    """
    found = {
        int(match[1]): path / CACHE_FILE
        for path in folder.expanduser().glob("layer_*")
        if (match := _FOLDER.fullmatch(path.name)) and (path / CACHE_FILE).is_file()
    }
    if not found:
        raise CorpusError(f"{folder} holds no cache of latentlens: no layer_N/{CACHE_FILE} is in it.")
    missing = sorted(set(layers or ()) - found.keys())
    if missing:
        raise LayerNotFound(
            f"The cache in {folder} has no layer {listed(missing)}; it has {listed(sorted(found))}."
        )
    return {layer: found[layer] for layer in sorted(found) if layers is None or layer in layers}


def import_latentlens(
    bank: Bank,
    model: LanguageModel,
    folder: Path,
    name: str,
    progress: Progress | None = None,
    sample: int = 1000,
) -> CacheReport:
    """Store a cache's contexts as a corpus of a bank, and verify it. Called again, it continues where it stopped.

    Args:
        bank: open for writing; the cache has to have its layers.
        model: the LLM that the cache was made with, loaded as deep as the bank's deepest layer.
        folder: the cache.
        name: the corpus's name.
        progress: counts rows checked, contexts stored, layers indexed, contexts compared.
        sample: how many vectors of each layer are verified.

    Raises:
        BankMismatch: the bank is of another LLM, or centred: a cache's vectors have unit length, and centring needs the
            original length.
        CorpusError: a file is damaged or needs unpickling, or its tokens are not the model's.
        LayerNotFound: the cache lacks a layer of the bank, or has it after the final norm.
        ModelError: the vectors are not this model's hidden states.
    """
    progress = progress or Silent()
    bank.require_model(model.name, model.identity())
    if bank.metric != "cosine":
        raise BankMismatch(
            f"The bank '{bank.name}' is centred, but vectors in caches of latentlens have length 1 and cannot be "
            "centred any more; import them into a bank of plain cosine."
        )
    if model.num_layers in bank.layers:
        raise LayerNotFound(
            f"Layer {model.num_layers}, the last of {model.name}, is taken after the final norm by latentlens and "
            "cannot be compared with hidden states; leave it out.",
            argument="layers",
        )
    files = cache_layers(folder, bank.layers)
    with tempfile.TemporaryDirectory(prefix="latentbank-") as scratch:
        contents = CacheContents(model, name, Path(scratch), progress)
        for layer, file in files.items():
            contents.add(layer, file)
        entry = contents.entry()
        receiver = Receiver(bank, [entry], progress)
        if receiver.todo:
            progress.stage("importing", "contexts")
            for layer, file in files.items():
                _store(bank, contents, layer, file, receiver)
        receiver.finish()
        bank.add_digests(model.identity())
        wrong = verify_corpora(bank, bank.layers, [entry], sample, progress)
    move = MoveReport(bank.name, bank.layers, [name], entry.contexts, receiver.written, [], wrong)
    return CacheReport(
        move, contents.rows, contents.repeated, contents.left_out, contents.not_everywhere(), contents.cosines
    )


def _store(bank: Bank, contents: CacheContents, layer: int, file: Path, receiver: Receiver) -> None:
    """Store those contexts of a layer that are not stored yet."""
    lookup = receiver.stored_contexts(layer, contents.corpus) > 0
    cache = Cache(file)
    for keys, payloads in contents.catalogue():
        ids = [as_uuid(key.ljust(16, b"\0")) for key in keys.tolist()]
        stored = bank.store.present(layer, ids) if lookup else set()
        kept = [i for i, id_ in enumerate(ids) if id_ not in stored]
        receiver.skip(len(stored))
        if kept:
            rows = torch.from_numpy(contents.rows_of(layer, keys[kept]))
            states = cache.embeddings[rows].float().numpy()
            vectors = prepare(states, "embeddings", bank.hidden_size, bank.manifest.rotation_seed)
            receiver.put(layer, Points([ids[i] for i in kept], vectors, [payloads[i] for i in kept]))
