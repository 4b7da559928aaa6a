"""The card of a bank on the hub: what it is, from the manifest, and how to read it with latentbank and without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from latentbank.bank.manifest import CorpusEntry, Manifest
from latentbank.errors import CorpusError
from latentbank.hub_cards import PAPER, Card, table
from latentbank.text import listed

# What the hub calls datasets of at most so many rows.
_SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
    (10**9, "100M<n<1B"),
)


def licenses_of(given: Sequence[str], corpora: Sequence[str]) -> dict[str, str]:
    """Return the licence of each corpus, from texts such as "cc-by-4.0" (all corpora) or "captions=cc-by-4.0" (one).

    Raises:
        CorpusError: there is no such corpus, or a text has another form.
    """
    found: dict[str, str] = {}
    for text in given:
        corpus, mark, licence = (part.strip() for part in text.rpartition("="))
        if not licence or (mark and corpus not in corpora):
            raise CorpusError(
                f"'{text}' names no licence of a corpus; write cc-by-4.0, or {corpora[0]}=cc-by-4.0 for one corpus of "
                f"{listed(corpora)}.",
                argument="license",
            )
        found |= dict.fromkeys([corpus] if mark else corpora, licence)
    return found


def bank_card(manifest: Manifest, repository: str, size: int, licenses: Mapping[str, str]) -> Card:
    """Return the card of an exported bank.

    Args:
        manifest: the export's manifest, with its complete corpora.
        repository: the id of its repository.
        size: bytes of its files.
        licenses: the licence of each corpus for which one was given.
    """
    entries = list(manifest.corpora.values())
    contexts = sum(entry.contexts for entry in entries)
    given = list(dict.fromkeys(licenses.values()))
    metadata: dict[str, Any] = {
        "pretty_name": f"{manifest.bank}: contextualized text embeddings",
        "license": given[0] if len(given) == 1 else given or None,
        "tags": ["latentbank", "latentlens", "interpretability", "embeddings"],
        "size_categories": [next((name for most, name in _SIZES if contexts < most), "n>1T")],
        # Without this, the hub and `datasets` would take bank.json for the data.
        "configs": [
            {"config_name": entry.name, "data_files": f"{entry.name}/contexts-*.parquet"} for entry in entries
        ],
    }
    return Card(
        f"Bank {manifest.bank}", metadata, "\n\n".join(_text(manifest, repository, size, entries, licenses))
    )


def _text(
    manifest: Manifest,
    repository: str,
    size: int,
    entries: Sequence[CorpusEntry],
    licenses: Mapping[str, str],
) -> list[str]:
    model = (
        manifest.model if manifest.local else f"[{manifest.model}](https://huggingface.co/{manifest.model})"
    )
    what = "a local model" if manifest.local else f"revision {manifest.revision}" if manifest.revision else ""
    middle = " (each layer's mean was subtracted before; `manifest.means` in `bank.json` has the means)"
    facts = {
        "language model": f"{model}{f' ({what})' if what else ''}",
        "layers": f"{listed(manifest.layers)} of {manifest.num_layers}",
        "contexts": f"{sum(entry.contexts for entry in entries):,} in each layer",
        "vectors": f"{manifest.hidden_size} dimensions, float16, length 1, not rotated"
        f"{middle if manifest.metric == 'centred' else ''}",
        "size": f"{size / 1e9:,.2f} GB" if size >= 1e8 else f"{size / 1e6:,.2f} MB",
        "made by": f"latentbank {manifest.version}",
    }
    columns = ["corpus", "sentences", "tokens", "contexts", *(["licence"] if licenses else [])]
    rows = [
        [entry.name, f"{entry.sentences:,}", f"{entry.tokens:,}", f"{entry.contexts:,}"]
        + ([licenses.get(entry.name, "not given")] if licenses else [])
        for entry in entries
    ]
    first, layer = entries[0].name, manifest.layers[len(manifest.layers) // 2]
    return [
        "Hidden states of text tokens in their sentences, from several layers of one language model. The tokens that "
        "lie nearest describe a visual token of a vision-language model with this language model inside.",
        table(facts),
        "## Corpora",
        "\n".join(f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)),
        "The sentences stand in the files, under their own licences.",
        "## Read it",
        "With latentbank, all layers or some:\n\n"
        "```python\n"
        "import latentbank as lb\n\n"
        f'lb.import_bank("{repository}", layers=[{layer}])\n'
        "```",
        "Without it: row *i* of a file of vectors belongs to row *i* of the file of contexts with the same number.\n\n"
        "```python\n"
        "from datasets import load_dataset\n"
        "from huggingface_hub import hf_hub_download\n"
        "from safetensors.numpy import load_file\n\n"
        f'contexts = load_dataset("{repository}", "{first}", split="train")  # token, word, caption, start, end, ...\n'
        f'file = hf_hub_download("{repository}", "{first}/L{layer:02d}-00000.safetensors", repo_type="dataset")\n'
        'vectors = load_file(file)["vectors"]  # of the first contexts; cosine: scale a hidden state to length 1\n'
        "```",
        "`SHA256SUMS` has the sum of every file (`sha256sum -c SHA256SUMS`).",
        "## Paper",
        PAPER,
    ]
