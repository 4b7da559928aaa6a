"""What becomes a context: the rules of a plan, applied to sentences with the tokenizer alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from latentbank.bank.points import prefix_ids
from latentbank.bank.words import Words, tight
from latentbank.errors import ModelError
from latentbank.ingest.plan import PlannedSentence, PlanSettings
from latentbank.models.language.model import LanguageModel
from latentbank.models.language.tokens import check_ids


class Chooser:
    """Chooses the contexts of sentences that come in corpus order.

    Every token becomes a context except special tokens, the leading tokens that are skipped, tokens whose prefix was
    chosen before, and those beyond `contexts_per_token` of one token id.

    Attributes:
        tokens: tokens so far that are not special.
        contexts: contexts chosen so far.
        truncated: sentences cut so far.
        caption_bytes: sum over the contexts so far of their caption's length in UTF-8.
    """

    def __init__(self, corpus: str, model: LanguageModel, settings: PlanSettings) -> None:
        """Start with an empty corpus.

        Args:
            corpus: its name, part of every prefix's id.
            model: the LLM; its tokenizer and sizes are used.
            settings: how contexts are chosen.
        """
        self.corpus, self.settings, self.model = corpus, settings, model
        self.tokenizer: Any = model.tokenizer
        self.special = set(self.tokenizer.all_special_ids)
        bos = model.bos_token_id if settings.bos == "always" else None
        self.forced = [] if bos is None else [bos]
        self.limit = min(settings.max_tokens, model.max_length)
        self.stored: set[bytes] = set()
        # Ids can be larger than the number of tokens: a vocabulary may have gaps.
        known = max(self.tokenizer.get_vocab().values(), default=0) + 1
        self.per_token = np.zeros(max(model.vocab_size, known), dtype=np.int64)
        self.tokens = self.contexts = self.truncated = self.next = self.caption_bytes = 0

    def choose(self, sentences: Sequence[str]) -> Iterator[PlannedSentence]:
        """Yield those of the next sentences that get a context.

        Raises:
            ModelError: the tokenizer reports spans outside the sentence, or has tokens that the model lacks.
        """
        # A special token's name inside a sentence is text: split_special_tokens keeps it from becoming one.
        encoded = self.tokenizer(
            list(sentences),
            add_special_tokens=not self.forced,
            split_special_tokens=True,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        rows = zip(
            sentences,
            encoded["input_ids"],
            encoded["special_tokens_mask"],
            encoded["offset_mapping"],
            strict=True,
        )
        for caption, ids, special, offsets in rows:
            planned = self._choose_in(self.next, caption, ids, special, offsets)
            self.next += 1
            if planned is not None:
                yield planned

    def _choose_in(
        self,
        sentence: int,
        caption: str,
        ids: list[int],
        special: list[int],
        offsets: list[tuple[int, int]],
    ) -> PlannedSentence | None:
        if self.forced:
            ids, special, offsets = (
                self.forced + ids,
                [1] * len(self.forced) + special,
                [(0, 0)] * len(self.forced) + offsets,
            )
        # An unknown character becomes a special token (<unk>) without being marked as one.
        real = [i for i, id_ in enumerate(ids) if not special[i] and id_ not in self.special]
        if real and real[-1] >= self.limit:
            self.truncated += 1
            real = [i for i in real if i < self.limit]
        self.tokens += len(real)
        cap = self.settings.contexts_per_token
        open_ = [i for i in real[self.settings.skip :] if self.per_token[ids[i]] < cap]
        if not open_:
            return None
        candidates, chosen = set(open_), []
        for i, key in enumerate(prefix_ids(self.corpus, ids[: open_[-1] + 1])):
            # Counted again: earlier tokens of the sentence may have used up the token id's last place.
            if i in candidates and key not in self.stored and self.per_token[ids[i]] < cap:
                self.stored.add(key)
                self.per_token[ids[i]] += 1
                chosen.append(i)
        if not chosen:
            return None
        check_ids(self.model, ids[: chosen[-1] + 1], caption)
        self.contexts += len(chosen)
        self.caption_bytes += len(chosen) * len(caption.encode())
        words = Words(caption)
        spans = [tight(caption, *offsets[i]) for i in chosen]
        if not all(0 <= start <= end <= len(caption) for start, end in spans):
            raise ModelError(
                "The tokenizer reports spans outside the sentence; it cannot be used for a bank."
            )
        return PlannedSentence(
            sentence,
            caption,
            ids[: chosen[-1] + 1],
            chosen,
            [start for start, _ in spans],
            [end for _, end in spans],
            [words.at(start, end) for start, end in spans],
        )
