"""A corpus of technical prose, for `experiment corpus-swap`: the sentences of Python's own language reference.

An encyclopedia or the news would be the natural corpus of sentences that describe no pictures; no package carries one.
The reference that `help()` prints comes with every Python: prose by many hands, about no visible thing.

    python -m benchmarks.technical_prose technical.txt
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_FEWEST, _MOST = 5, 60  # words in a sentence


def sentences() -> Iterator[str]:
    """Give the reference's sentences, each once, without code and tables."""
    seen: set[str] = set()
    for text in topics.values():
        for paragraph in re.split(r"\n\s*\n", text):
            for sentence in _END.split(" ".join(paragraph.split())):
                words = sentence.split()
                prose = sum(word.strip(".,;:()\"'*").isalpha() for word in words) >= 0.8 * len(words)
                if (
                    _FEWEST <= len(words) <= _MOST
                    and prose
                    and sentence.endswith(".")
                    and sentence not in seen
                ):
                    seen.add(sentence)
                    yield sentence


def main() -> None:
    """Command line of `python -m benchmarks.technical_prose`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="where the sentences go, one a line")
    file = parser.parse_args().file
    found = list(sentences())
    file.write_text("\n".join(found) + "\n", encoding="utf-8")
    print(f"{file}: {len(found):,} sentences.")


if __name__ == "__main__":
    main()
