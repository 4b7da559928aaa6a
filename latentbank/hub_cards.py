"""Cards: the README.md of a repository on the hub, with the metadata that the hub shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_MARK = "<!-- What stands below this line is yours, and stays when this is pushed again. -->"
PAPER = (
    "LatentLens reads a visual token by the text tokens whose hidden states lie nearest: "
    "[LatentLens: Revealing Highly Interpretable Visual Tokens in LLMs](https://arxiv.org/abs/2602.00462) "
    "(Krojer et al., 2026)."
)


@dataclass(frozen=True)
class Card:
    """What the README.md of a repository says.

    Attributes:
        title: its heading.
        metadata: what the hub reads, by the hub's names. Values that are None are left out.
        text: Markdown below the heading.
    """

    title: str
    metadata: Mapping[str, Any]
    text: str

    def written(self, old: str | None = None) -> str:
        """Return the file's text.

        Args:
            old: the text that it replaces. Its metadata of other names stay, and so does what stands below its line for
                that; without such a line all of its text.
        """
        from huggingface_hub import RepoCard
        from huggingface_hub.repocard_data import CardData

        kept: dict[str, Any] = {}
        below = ""
        if old is not None:
            card: Any = RepoCard(old, ignore_metadata_errors=True)
            kept = card.data.to_dict()
            below = old.partition(_MARK)[2] if _MARK in old else f"\n{card.text}"
        metadata = kept | {name: value for name, value in self.metadata.items() if value is not None}
        head = CardData(**metadata).to_yaml()
        return f"---\n{head}\n---\n\n# {self.title}\n\n{self.text.strip()}\n\n{_MARK}\n{below.removeprefix(chr(10))}"


def table(rows: Mapping[str, object]) -> str:
    """Return a Markdown table of facts by name."""
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows.items())
