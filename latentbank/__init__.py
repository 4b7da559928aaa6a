"""latentbank: what do a vision-language model's tokens mean?

Names are imported when they are first used, so that `import latentbank` is quick.
"""

from __future__ import annotations

import importlib
from typing import Any

from latentbank.errors import LatentBankError

_HOME = {
    "latentbank.errors": (
        "BankBusy",
        "BankMismatch",
        "BankNotFound",
        "BankUnavailable",
        "CorpusError",
        "ImageError",
        "LayerNotFound",
        "ModelError",
        "QueryError",
    ),
    "latentbank.bank.bank": ("Bank",),
    "latentbank.bank.transfer.export": ("export_bank",),
    "latentbank.bank.transfer.load": ("import_bank",),
    "latentbank.bank.transfer.copy": ("copy_bank",),
    "latentbank.bank.opening": ("create_bank", "delete_bank", "list_banks", "open_bank", "use_bank"),
    "latentbank.bank.points": ("Neighbor",),
    "latentbank.bank.settings": ("Settings", "load_settings"),
    "latentbank.bank.where": ("Where",),
    "latentbank.ingest.corpus": ("Corpus", "corpus_from_sentences", "open_corpus"),
    "latentbank.ingest.job": ("plan_for", "store_plan"),
    "latentbank.ingest.latentlens.caches": ("import_official",),
    "latentbank.ingest.plan": ("Plan", "PlanSettings", "load_plan", "make_plan"),
    "latentbank.models.composite.model": ("CompositeVLM",),
    "latentbank.models.vision.encoders": ("load_encoder",),
    "latentbank.models.training.features": ("Features", "cache_features"),
    "latentbank.models.language.model": ("LanguageModel", "load_language_model"),
    "latentbank.models.training.pairs": ("Pair", "open_pairs"),
    "latentbank.models.composite.projector": ("Projector", "load_projector", "save_projector"),
    "latentbank.models.training.stages": ("Stage", "TrainSettings"),
    "latentbank.models.training.train": ("train_projector",),
    "latentbank.models.visual": ("load_visual_model", "unembedding_of"),
    "latentbank.query.reading.calibrate": ("measure_means",),
    "latentbank.query.lenses.centring": ("Means", "load_means", "save_means"),
    "latentbank.query.evaluation.evaluate": ("evaluate",),
    "latentbank.query.reading.images": ("find_images",),
    "latentbank.query.lenses.base": ("Lens", "LensOptions", "Queries"),
    "latentbank.query.lenses.embedding": ("EmbeddingLens",),
    "latentbank.query.lenses.latent": ("LatentLens",),
    "latentbank.query.lenses.logit": ("LogitLens",),
    "latentbank.query.reading.norms": ("measure_norms",),
    "latentbank.query.output.plots": ("plot_reading", "save_plot"),
    "latentbank.query.reading.reading": ("Reading",),
    "latentbank.query.reading.text": ("read_hidden", "read_text"),
    "latentbank.query.output.pictures": ("draw_reading", "save_reading"),
    "latentbank.query.reading.visual": ("read_image", "read_images"),
    "latentbank.query.web.file": ("reading_html", "save_html"),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = ["LatentBankError", *_MODULE]


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'latentbank' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULE[name]), name)
