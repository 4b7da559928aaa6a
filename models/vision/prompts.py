"""The prompt around an image or a video where none is given: the model's chat template, as far as it takes one."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

log = logging.getLogger(__name__)

_told: set[tuple[str, str]] = set()


def default_prompt(name: str, processor: Any, placeholder: str, kind: str, request: str) -> str:
    """Return the model's chat template around one image or video and a request to describe it.

    Some templates take no lists of parts, or raise: their message is then text with the placeholder in it. Without a
    template that takes either, the prompt is the placeholder and the request; one warning says so.

    Args:
        name: the model's name, for the warning.
        processor: the model's processor.
        placeholder: the text that stands for the image or video.
        kind: "image" or "video".
        request: the request.
    """
    plain = f"{placeholder}\n{request}"
    template = getattr(processor, "chat_template", None) or processor.tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        return plain
    for text in _filled(
        processor, template, [{"type": kind}, {"type": "text", "text": request}], plain, request
    ):
        # A template that takes text alone writes the list of parts as Python does.
        if text.count(placeholder) == 1 and request in text and "'type':" not in text:
            return text
    if (name, kind) not in _told:
        _told.add((name, kind))
        log.warning("The chat template of %s takes no %s; the prompt is %r.", name, kind, plain)
    return plain


def _filled(processor: Any, template: str, parts: list[dict[str, str]], *texts: str) -> Iterator[str]:
    """Yield the template with each content that it takes."""
    options = {"chat_template": template, "add_generation_prompt": True, "tokenize": False}
    with contextlib.suppress(Exception):  # a template is a program, which can fail in any way
        yield str(processor.apply_chat_template([{"role": "user", "content": parts}], **options))
    for text in texts:
        with contextlib.suppress(Exception):
            yield str(processor.tokenizer.apply_chat_template([{"role": "user", "content": text}], **options))
