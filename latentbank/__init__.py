"""latentbank: what do a vision-language model's visual tokens mean?

Each name is imported from its module when it is first used, so that `import latentbank` is quick. Type checkers read
`__init__.pyi`, which holds the same names.
"""

import threading

from latentbank.version import __version__

# Name -> the module that defines it.
_MODULES = {
    # Models
    "load_language_model": "latentbank.models.language.model",
    "load_visual_model": "latentbank.models.visual",
    # Filling a bank
    "create_bank": "latentbank.ingest.banks",
    "plan": "latentbank.ingest.filling",
    "fill": "latentbank.ingest.filling",
    # Banks
    "Bank": "latentbank.bank.bank",
    "Where": "latentbank.bank.where",
    "open_bank": "latentbank.bank.opening",
    "list_banks": "latentbank.bank.opening",
    "use_bank": "latentbank.bank.opening",
    "delete_bank": "latentbank.bank.opening",
    "load_settings": "latentbank.bank.settings",
    # Moving banks
    "copy_bank": "latentbank.bank.transfer.copy",
    "export_bank": "latentbank.bank.transfer.export",
    "import_bank": "latentbank.bank.transfer.load",
    # Reading
    "Reading": "latentbank.query.reading.reading",
    "read_text": "latentbank.query.reading.text",
    "read_hidden": "latentbank.query.reading.text",
    "read_image": "latentbank.query.reading.visual",
    "read_images": "latentbank.query.reading.visual",
    "find_images": "latentbank.models.vision.sources",
    "read_video": "latentbank.query.reading.video",
    "read_audio": "latentbank.query.reading.audio",
    # Lenses
    "LatentLens": "latentbank.query.lenses.latent",
    "LogitLens": "latentbank.query.lenses.logit",
    "EmbeddingLens": "latentbank.query.lenses.embedding",
    "LensOptions": "latentbank.query.lenses.base",
    "lenses_of": "latentbank.query.lenses.registry",
    # Showing readings
    "save_reading": "latentbank.query.output.pictures",
    "save_plot": "latentbank.query.output.plots",
    "save_html": "latentbank.query.web.file",
    # Measuring
    "evaluate": "latentbank.query.evaluation.evaluate",
    "measure_means": "latentbank.query.reading.calibrate",
    "save_means": "latentbank.query.lenses.centring",
    "load_means": "latentbank.query.lenses.centring",
    # Training
    "train_projector": "latentbank.models.training.train",
    # Errors
    "LatentBankError": "latentbank.errors",
    "BankNotFound": "latentbank.errors",
    "BankUnavailable": "latentbank.errors",
}

_importing = threading.RLock()

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'latentbank' has no attribute '{name}'")
    import importlib

    # transformers cannot be imported by two threads at the same time.
    with _importing:
        return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
