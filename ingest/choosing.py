"""What becomes a context: the rules of a plan, applied to sentences with the tokenizer alone.

`Chooser` finds the tokens that may become contexts. Which of them do is decided by `_FirstOnes`, in corpus order, or by
`_Sampled`, whose choice is final only when all sentences have been read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from latentbank.bank.points import prefix_ids
from latentbank.bank.words import Words, tight
from latentbank.errors import ModelError
from latentbank.ingest.plan import PlannedSentence, PlanSettings
from latentbank.ingest.reservoir import Reservoirs
from latentbank.models.language.model import LanguageModel
from latentbank.models.language.tokens import check_ids


class Chooser:
    """Chooses the contexts of sentences that come in corpus order.

    Every token becomes a context except special tokens, the leading tokens that are skipped, tokens before the first
    position, tokens whose prefix was chosen before, and those that find no place among the `contexts_per_token` of
    their token.

    Attributes:
        tokens: tokens so far that are not special.
        truncated: sentences cut so far.
        provisional: whether contexts that were chosen may have to leave for later ones, as `settled` says in the end.
    """

    def __init__(
        self,
        corpus: str,
        model: LanguageModel,
        settings: PlanSettings,
        numbers: Sequence[int] | None = None,
    ) -> None:
        """Start with an empty corpus.

        Args:
            corpus: its name, part of every prefix's id.
            model: the LLM; its tokenizer and sizes are used.
            settings: how contexts are chosen.
            numbers: the numbers of the sentences; None: from 0 on.
        """
        self.numbers = numbers
        self.settings, self.model = settings, model
        self.tokenizer: Any = model.tokenizer
        self.special = set(self.tokenizer.all_special_ids)
        bos = model.bos_token_id if settings.bos == "always" else None
        self.forced = [] if bos is None else [bos]
        self.limit = min(settings.max_tokens, model.max_length)
        self.provisional = settings.sampling == "reservoir"
        self.places: _FirstOnes | _Sampled = (
            _Sampled(model, settings) if self.provisional else _FirstOnes(corpus, model, settings)
        )
        self.tokens = self.truncated = self.next = 0

    def settled(self, planned: PlannedSentence) -> PlannedSentence | None:
        """Return a chosen sentence, once all have been read, with those contexts that stay; None: none does.

        Only for contexts that are `provisional`.
        """
        assert isinstance(self.places, _Sampled)
        kept = self.places.staying(planned)
        return planned.only(kept) if kept else None

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
            number = self.next if self.numbers is None else self.numbers[self.next]
            planned = self._choose_in(number, caption, ids, special, offsets)
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
        chosen = self.places.taken(
            ids, [i for i in real[self.settings.skip :] if i >= self.settings.first_position]
        )
        if not chosen:
            return None
        check_ids(self.model, ids[: chosen[-1] + 1], caption)
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


class _FirstOnes:
    """The first contexts of each token id take its places."""

    def __init__(self, corpus: str, model: LanguageModel, settings: PlanSettings) -> None:
        self._corpus, self._cap = corpus, settings.contexts_per_token
        self._stored: set[bytes] = set()
        # Ids can be larger than the number of tokens: a vocabulary may have gaps.
        known = max(model.tokenizer.get_vocab().values(), default=0) + 1
        self._per_token = np.zeros(max(model.vocab_size, known), dtype=np.int64)

    def taken(self, ids: list[int], candidates: list[int]) -> list[int]:
        """Return which of the candidates, positions in `ids`, become contexts."""
        open_ = [i for i in candidates if self._per_token[ids[i]] < self._cap]
        if not open_:
            return []
        wanted, chosen = set(open_), []
        for i, key in enumerate(prefix_ids(self._corpus, ids[: open_[-1] + 1])):
            # Counted again: earlier tokens of the sentence may have used up the token id's last place.
            if i in wanted and key not in self._stored and self._per_token[ids[i]] < self._cap:
                self._stored.add(key)
                self._per_token[ids[i]] += 1
                chosen.append(i)
        return chosen


class _Sampled:
    """A random sample of the contexts of each decoded token takes its places. A prefix keeps its first sentence."""

    def __init__(self, model: LanguageModel, settings: PlanSettings) -> None:
        self._reservoirs = Reservoirs(settings.contexts_per_token, settings.seed)
        self._split = settings.split_position
        self._tokenizer: Any = model.tokenizer
        self._texts: dict[int, str] = {}

    def taken(self, ids: list[int], candidates: list[int]) -> list[int]:
        """Return which of the candidates, positions in `ids`, become contexts for now."""
        if not candidates:
            return []
        wanted = set(candidates)
        return [
            i
            for i, number in enumerate(self._reservoirs.numbers(ids[: candidates[-1] + 1]))
            if i in wanted and self._reservoirs.offer((self._text(ids[i]), i >= self._split), number)
        ]

    def staying(self, planned: PlannedSentence) -> list[int]:
        """Return which of a sentence's contexts stay when all sentences have been read: indices into `positions`."""
        numbers = list(self._reservoirs.numbers(planned.token_ids))
        kept = self._reservoirs.kept
        return [index for index, position in enumerate(planned.positions) if numbers[position] in kept]

    def _text(self, token_id: int) -> str:
        if token_id not in self._texts:
            self._texts[token_id] = self._tokenizer.decode([token_id])
        return self._texts[token_id]
