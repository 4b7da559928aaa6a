"""A corpus of technical prose, for `experiment corpus-swap`: the sentences of Python's own language reference.

An encyclopedia or news would be the natural corpus of sentences that describe no pictures, but no package has one. The
language reference that `help()` prints comes with every Python. Many authors wrote it, and it describes nothing
visible.

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
    """Yield the sentences of the language reference, each once, without code and tables."""
    found: set[str] = set()
    for text in topics.values():
        for paragraph in re.split(r"\n\s*\n", text):
            for sentence in _END.split(" ".join(paragraph.split())):
                words = sentence.split()
                prose = sum(word.strip(".,;:()\"'*").isalpha() for word in words) >= 0.8 * len(words)
                if (
                    _FEWEST <= len(words) <= _MOST
                    and prose
                    and sentence.endswith(".")
                    and sentence not in found
                ):
                    found.add(sentence)
                    yield sentence


def main() -> None:
    """Write the sentences to a file."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.technical_prose",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, help="file to write, a sentence a line")
    file = parser.parse_args().file
    lines = list(sentences())
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{file}: {len(lines):,} sentences.")


if __name__ == "__main__":
    main()
