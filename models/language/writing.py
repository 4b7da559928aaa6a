"""A language model of this machine that writes text: the whole model with its unembedding, by sampling."""

from __future__ import annotations

import os
from typing import Any

import torch

from latentbank.errors import ModelError
from latentbank.models.language.devices import choose_device, choose_dtype
from latentbank.text import public_reason

_TOKENS = 400  # of an answer, at most
_TEMPERATURE, _TOP_P = 0.8, 0.95


class Writer:
    """Answers questions, each time the same answer to the same question.

    Attributes:
        name: the model's name.
    """

    def __init__(
        self,
        name: str | os.PathLike[str],
        *,
        device: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        tokens: int = _TOKENS,
    ) -> None:
        """Load the model.

        Args:
            name: a hub id or a directory that transformers loads as a causal LLM.
            device: as for `load_language_model`.
            revision: branch, tag or commit on the hub.
            trust_remote_code: run the Python code that comes with the model. Only for authors you trust.
            tokens: an answer has at most so many.

        Raises:
            ModelError: it cannot be loaded.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.name, self._tokens = str(name), tokens
        place = choose_device(device)
        given: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
        dtype = choose_dtype(None, place)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(self.name, **given)
            model: Any = AutoModelForCausalLM.from_pretrained(self.name, dtype=dtype, **given)
        except Exception as error:  # transformers raises many kinds
            raise ModelError(
                f"The LLM {self.name} cannot be loaded to write sentences ({public_reason(error)}); name a hub id or "
                "a directory of a causal LLM.",
                argument="from_llm",
            ) from None
        self._model = model.to(place).eval()

    def __call__(self, question: str) -> str:
        """Return the model's answer to a question, put into the model's own chat format where it has one."""
        if getattr(self._tokenizer, "chat_template", None):
            messages = [{"role": "user", "content": question}]
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            encoded = self._tokenizer(text, return_tensors="pt", add_special_tokens=False)
        else:
            encoded = self._tokenizer(f"{question}\n", return_tensors="pt")
        ids = encoded["input_ids"].to(self._model.device)
        with torch.inference_mode(), torch.random.fork_rng():
            torch.manual_seed(0)
            written = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=_TEMPERATURE,
                top_p=_TOP_P,
                max_new_tokens=self._tokens,
                pad_token_id=self._tokenizer.pad_token_id or self._tokenizer.eos_token_id,
            )
        return str(self._tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True))
