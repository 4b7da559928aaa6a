"""Lenses by name: those of this package, and those of installed packages with entry points `latentbank.lenses`.

An entry point names a module that defines a lens, or the class itself. Nothing heavy is imported before a lens is made.
"""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from collections.abc import Mapping, Sequence
from functools import cache

from latentbank.errors import QueryError
from latentbank.extensions import extensions_of
from latentbank.query import lenses
from latentbank.query.lenses.base import Lens, LensOptions, ScoreName, registered
from latentbank.text import listed
from latentbank.values import names_of

ENTRY_POINTS = "latentbank.lenses"


def lens_classes() -> Mapping[str, type[Lens]]:
    """Return all lenses by name, in the order in which lists show them."""
    _load_all()
    return dict(sorted(registered().items(), key=lambda entry: (entry[1].rank, entry[0])))


def lens_class(name: str) -> type[Lens]:
    """Return the lens of a name.

    Raises:
        QueryError: there is none; the message names those there are.
    """
    classes = lens_classes()
    if name not in classes:
        raise QueryError(f"There is no lens '{name}'; there are {listed(classes)}.")
    return classes[name]


def lens_names(text: str) -> list[str]:
    """Return the names of lenses in a comma-separated text, each once.

    Raises:
        QueryError: there is no lens of a name.
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        lens_class(name)
    return names


def lenses_of(names: str | Sequence[str], options: LensOptions) -> list[Lens]:
    """Return the lenses with these names, each made from the options.

    Raises:
        QueryError: there is no lens of a name, or one needs a bank and there is none.
        ModelError: the model lacks what a lens needs.

    Examples:
        >>> import latentbank as lb
        >>> vlm = lb.load_visual_model("Qwen/Qwen2.5-VL-7B-Instruct")
        >>> with lb.open_bank("Qwen2.5-VL-7B-Instruct") as bank:
        ...     lenses = lb.lenses_of(["latent", "logit"], lb.LensOptions(vlm, bank))
        ...     (reading,) = lb.read_images(vlm, ["cat.jpg"], lenses, layers=[8])
        >>> reading.lenses
        ('latent', 'logit')
    """
    return [lens_class(name).make(options) for name in names_of(names)]


def title_of(name: str) -> str:
    """Return the title of a lens; its name if it is not known here."""
    found = lens_classes().get(name)
    return name if found is None else found.title


def score_of(name: str) -> ScoreName:
    """Return the kind of score of a lens's neighbors; "cosine" if the lens is not known here."""
    found = lens_classes().get(name)
    return "cosine" if found is None else found.score


def searches_bank(name: str) -> bool:
    """Return whether a lens's neighbors come from a bank; False, if it is not known here."""
    found = lens_classes().get(name)
    return found is not None and found.needs_bank


def needs_whole(names: Sequence[str]) -> bool:
    """Return whether one of some lenses runs the LLM on to its end."""
    return any(lens_class(name).needs_whole for name in names)


@cache
def _load_all() -> None:
    """Import the modules that define lenses; their classes register themselves."""
    for module in pkgutil.iter_modules(lenses.__path__):
        importlib.import_module(f"{lenses.__name__}.{module.name}")
    for _ in extensions_of(ENTRY_POINTS, "lens", (), _warn):
        pass  # loading a lens registers it


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=2)
