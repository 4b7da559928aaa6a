"""What caches of latentlens hold: their rows matched with contexts of an LLM, and checked against it."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from latentbank.bank.manifest import CorpusEntry
from latentbank.bank.points import Payload, prefix_ids
from latentbank.bank.transfer.export import COLUMNS
from latentbank.bank.words import Words, tight
from latentbank.errors import CorpusError, ModelError
from latentbank.ingest.encode import TokenNames
from latentbank.models.language.model import LanguageModel
from latentbank.progress import Progress
from latentbank.text import first_line

# Rows that are read, tokenized and stored at once.
_ROWS = 2048
# Contexts of each layer that the LLM computes itself, to check that the cache was made with it.
_COMPARED = 8
# The least median cosine between the cache's vectors and the LLM's: half-precision LLMs and caches of 8 bits stay well
# above it, another LLM or another layer far below.
_LEAST_COSINE = 0.95

# An export's columns, with the raw key in place of the id; the corpus is the same in all rows.
_CATALOGUE = pa.schema(
    [pa.field("key", pa.binary(16)), *(column for column in COLUMNS if column.name not in ("id", "corpus"))]
)

# Ids as 16 raw bytes each: numpy sorts and compares them as bytes.
Keys = npt.NDArray[np.bytes_]


class Cache:
    """One layer's file.

    Attributes:
        file: its path.
        embeddings: floating point `[n, hidden]`, mapped from the file.
        metadata: a list of n dicts.
    """

    def __init__(self, file: Path) -> None:
        """Open the file.

        Raises:
            CorpusError: it is not a cache, or would have to be unpickled.
        """
        self.file = file
        try:
            data = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except pickle.UnpicklingError:
            raise CorpusError(
                f"{file} holds Python objects besides tensors, texts and numbers; loading those can run any code, so "
                "latentbank does not do it; if you trust the file, load it yourself and save it with plain texts and "
                "numbers."
            ) from None
        except (RuntimeError, OSError, EOFError, ValueError) as error:
            reason = first_line(error)[:100]
            old = "mmap can only be used" in reason
            raise CorpusError(
                f"{file} is in PyTorch's old format, which cannot be mapped, or no file of PyTorch's; if you trust it, "
                "load it and save it again with torch.save."
                if old
                else f"{file} cannot be read ({reason}); download or save it again."
            ) from None
        embeddings = data.get("embeddings") if isinstance(data, dict) else None
        metadata = data.get("metadata") if isinstance(data, dict) else None
        if not isinstance(embeddings, Tensor) or not isinstance(metadata, list):
            raise self.wrong("it must hold a dict of embeddings and metadata")
        if (
            embeddings.dim() != 2
            or not embeddings.is_floating_point()
            or len(embeddings) != len(metadata)
            or not metadata
        ):
            raise self.wrong(
                f"its embeddings are {embeddings.dtype} {list(embeddings.shape)}, its metadata has {len(metadata):,} "
                "rows"
            )
        self.embeddings: Tensor = embeddings
        self.metadata: list[Any] = metadata

    def wrong(self, how: str) -> CorpusError:
        """Return the error for a file that is not a cache.

        Args:
            how: what is wrong, a clause.
        """
        return CorpusError(f"{self.file} is not a cache of latentlens: {how}.")


@dataclass
class _Sentence:
    """A caption as the LLM reads it.

    `ids` are its tokens, `spans` their characters in the caption, `keys` the keys of the prefixes that end with them,
    and `allowed` tells which of them may be contexts.
    """

    caption: str
    ids: list[int]
    spans: list[tuple[int, int]]
    allowed: list[bool]
    keys: list[bytes]
    words: Words


@dataclass
class _Context:
    """One row of a cache that can be a context."""

    row: int
    sentence: _Sentence
    position: int


@dataclass
class CacheContents:
    """What the files of a cache hold: for each layer the keys of its contexts, sorted, and the rows they are in.

    The payloads of the first layer go into a file, the catalogue, in the order of its rows: other layers may have
    another order, and other captions for the same prefix.

    Attributes:
        model: the LLM that the cache was made with.
        corpus: name of the corpus, part of every context's id.
        scratch: folder for files that are needed during the import.
        progress: counts rows checked.
        rows: rows of the first layer.
        repeated: rows that repeat the prefix of an earlier row.
        left_out: rows with a special token or a sentence's first token.
        cosines: by layer, the median cosine with the LLM's own hidden states.
        common: keys of the contexts that all layers have, sorted; None: no layer was added.
    """

    model: LanguageModel
    corpus: str
    scratch: Path
    progress: Progress
    rows: int = 0
    repeated: int = 0
    left_out: int = 0
    cosines: dict[int, float] = field(default_factory=dict)
    common: Keys | None = None
    _counts: dict[int, int] = field(default_factory=dict)

    def add(self, layer: int, file: Path) -> None:
        """Check the file of a layer and note its contexts.

        Raises:
            CorpusError: the file is not a cache, or its tokens are not the model's.
            ModelError: the vectors are not this model's hidden states.
        """
        self.progress.stage(f"checking layer {layer}", "rows")
        cache = Cache(file)
        if cache.embeddings.shape[1] != self.model.hidden_size:
            raise ModelError(
                f"The embeddings in {file} have {cache.embeddings.shape[1]} dimensions, hidden states of "
                f"{self.model.name} have {self.model.hidden_size}; name the LLM that the cache was made with."
            )
        first = self.common is None
        keys: list[bytes] = []
        rows: list[int] = []
        found: set[bytes] = set()
        compared: list[_Context] = []
        step = max(1, len(cache.metadata) // _COMPARED)
        catalogue = _CatalogueWriter(self.scratch, self.model) if first else None
        for context in self._contexts(cache):
            key = context.sentence.keys[context.position]
            if key in found:
                self.repeated += 1
                continue
            found.add(key)
            keys.append(key)
            rows.append(context.row)
            if catalogue is not None:
                catalogue.add(context)
            if len(compared) < _COMPARED and context.row >= len(compared) * step:
                compared.append(context)
        if catalogue is not None:
            catalogue.close()
            self.rows = len(cache.metadata)
        if not keys:
            raise cache.wrong("no row of it can be a context")
        self._compare(layer, cache, compared)
        array = np.array(keys, dtype="S16")
        order = np.argsort(array)
        self._counts[layer] = len(array)
        array = array[order]
        np.save(self._path(layer, "keys"), array)
        np.save(self._path(layer, "rows"), np.array(rows, dtype=np.int64)[order])
        self.common = array if self.common is None else np.intersect1d(self.common, array, assume_unique=True)

    def _contexts(self, cache: Cache) -> Iterator[_Context]:
        for at in range(0, len(cache.metadata), _ROWS):
            part = cache.metadata[at : at + _ROWS]
            sentences = self._sentences(cache, part, at)
            for row, meta in enumerate(part, at):
                sentence = sentences[meta["caption"]]
                position = meta["position"]
                self._check_token(cache, row, meta, sentence)
                if sentence.allowed[position]:
                    yield _Context(row, sentence, position)
                else:
                    self.left_out += 1
            self.progress.update(min(at + _ROWS, len(cache.metadata)), len(cache.metadata))

    def _sentences(self, cache: Cache, part: Sequence[Any], at: int) -> dict[str, _Sentence]:
        """Tokenize the captions of some rows as latentlens does: a name of a special token is that token."""
        for row, meta in enumerate(part, at):
            if (
                not isinstance(meta, Mapping)
                or not isinstance(meta.get("caption"), str)
                or type(meta.get("position")) is not int
            ):
                raise cache.wrong(f"row {row} of its metadata has no caption or no position")
        captions = list(dict.fromkeys(meta["caption"] for meta in part))
        encoded = self.model.tokenizer(
            captions,
            split_special_tokens=False,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        special_ids = set(self.model.tokenizer.all_special_ids)
        found = {}
        columns = (encoded["input_ids"], encoded["offset_mapping"], encoded["special_tokens_mask"])
        for caption, ids, spans, special in zip(captions, *columns, strict=True):
            allowed = [not mark and id_ not in special_ids for mark, id_ in zip(special, ids, strict=True)]
            if True in allowed:
                # The first token has no context and is the attention sink.
                allowed[allowed.index(True)] = False
            keys = list(prefix_ids(self.corpus, ids))
            found[caption] = _Sentence(caption, ids, spans, allowed, keys, Words(caption))
        return found

    def _check_token(self, cache: Cache, row: int, meta: Mapping[str, Any], sentence: _Sentence) -> None:
        """Check that the LLM's tokenizer has the token of a row where the cache has it.

        Raises:
            CorpusError: it has another token there, or none.
        """
        position, token_id = meta["position"], meta.get("token_id", -1)
        own = sentence.ids[position] if 0 <= position < len(sentence.ids) else None
        if own is None or token_id == own:
            same = own is not None
        elif token_id == -1:  # older caches hold only the texts of tokens
            same = self.model.tokenizer.decode([own]) == meta.get("token_str")
        else:
            same = False
        if not same:
            raise CorpusError(
                f"Row {row} of {cache.file} has token {token_id} ({str(meta.get('token_str'))[:20]!r}) at position "
                f"{position} of its caption, the tokenizer of {self.model.name} has {own}; name the LLM that the cache "
                "was made with."
            )

    def _compare(self, layer: int, cache: Cache, contexts: Sequence[_Context]) -> None:
        """Compare some of a layer's vectors with the hidden states of the LLM.

        Raises:
            ModelError: they differ.
        """
        prefixes = [context.sentence.ids[: context.position + 1] for context in contexts]
        own = torch.stack(
            [states[layer][-1] for states in self.model.hidden_states(prefixes, [layer])]
        ).float()
        there = cache.embeddings[[context.row for context in contexts]].float().to(own.device)
        cosine = float(torch.cosine_similarity(own, there, dim=-1).median())
        if not cosine >= _LEAST_COSINE:
            raise ModelError(
                f"The vectors of {cache.file} have a median cosine of {cosine:.3f} with the hidden states of "
                f"{self.model.name} at layer {layer}, which must be {_LEAST_COSINE} or more: the cache is of "
                "another LLM, or of another version of it."
            )
        self.cosines[layer] = cosine

    def entry(self) -> CorpusEntry:
        """Return the ledger entry of the corpus.

        Raises:
            CorpusError: no context is in all layers.
        """
        assert self.common is not None
        if not len(self.common):
            raise CorpusError(
                "The cache's layers have no context in common, and a bank holds the same contexts in each layer; "
                "import fewer layers.",
                argument="layers",
            )
        captions: set[str] = set()
        for _, payloads in self.catalogue():
            captions.update(payload["caption"] for payload in payloads)
        return CorpusEntry(
            name=self.corpus,
            content_hash=hashlib.blake2b(self.common.tobytes(), digest_size=16).hexdigest(),
            sentences=len(captions),
            tokens=self._tokens(sorted(captions)),
            contexts=len(self.common),
            plan={"imported": "latentlens cache"},
        )

    def _tokens(self, captions: Sequence[str]) -> int:
        count = 0
        for at in range(0, len(captions), _ROWS):
            encoded = self.model.tokenizer(
                list(captions[at : at + _ROWS]), add_special_tokens=False, verbose=False
            )
            count += sum(map(len, encoded["input_ids"]))
        return count

    def catalogue(self) -> Iterator[tuple[Keys, list[Payload]]]:
        """Yield keys and payloads of the contexts that all layers have, in the first layer's order, some at a time."""
        assert self.common is not None
        with pa.memory_map(str(self.scratch / "catalogue.arrow")) as source:
            reader = pa.ipc.open_file(source)
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                keys = np.array(batch.column("key").to_pylist(), dtype="S16")
                places = np.minimum(np.searchsorted(self.common, keys), len(self.common) - 1)
                kept = np.flatnonzero(self.common[places] == keys)
                rows = batch.drop_columns(["key"]).take(pa.array(kept)).to_pylist()
                if rows:
                    yield keys[kept], [cast("Payload", {"corpus": self.corpus, **row}) for row in rows]

    def rows_of(self, layer: int, keys: Keys) -> npt.NDArray[np.int64]:
        """Return the rows of these contexts in a layer's file: int64 `[keys]`."""
        sorted_keys = np.load(self._path(layer, "keys"), mmap_mode="r")
        rows = np.load(self._path(layer, "rows"), mmap_mode="r")
        return np.asarray(rows[np.searchsorted(sorted_keys, keys)])

    def not_everywhere(self) -> int:
        """Return the number of rows, over all layers, with a context that another layer lacks."""
        assert self.common is not None
        return sum(self._counts.values()) - len(self.common) * len(self._counts)

    def _path(self, layer: int, what: str) -> Path:
        return self.scratch / f"{what}-{layer}.npy"


class _CatalogueWriter:
    """Writes payloads to the catalogue, a batch at a time. Captions are numbered as sentences in their order."""

    def __init__(self, scratch: Path, model: LanguageModel) -> None:
        self._sink = pa.OSFile(str(scratch / "catalogue.arrow"), "wb")
        self._writer = pa.ipc.new_file(
            self._sink, _CATALOGUE, options=pa.ipc.IpcWriteOptions(compression="zstd")
        )
        self._names = TokenNames(model)
        self._numbers: dict[str, int] = {}
        self._batch: list[dict[str, Any]] = []

    def add(self, context: _Context) -> None:
        sentence, position = context.sentence, context.position
        start, end = tight(sentence.caption, *sentence.spans[position])
        self._batch.append(
            {
                "key": sentence.keys[position],
                "sentence": self._numbers.setdefault(sentence.caption, len(self._numbers)),
                "position": position,
                "token_id": sentence.ids[position],
                "token": self._names[sentence.ids[position]],
                "word": sentence.words.at(start, end),
                "caption": sentence.caption,
                "start": start,
                "end": end,
            }
        )
        if len(self._batch) == _ROWS:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_batch(pa.RecordBatch.from_pylist(self._batch, _CATALOGUE))
        self._batch = []

    def close(self) -> None:
        self._flush()
        self._writer.close()
        self._sink.close()
