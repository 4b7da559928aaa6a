"""Entry points through which packages extend latentbank: lenses, families of models, corpus formats."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import latentbank
from latentbank.text import first_line


def entry_points_of(group: str) -> list[EntryPoint]:
    """Return the entry points of a group, sorted by name.

    They are those of installed packages and those that latentbank's own pyproject.toml declares. A checkout has the
    latter also if it is not installed, or was installed before they were added.

    Args:
        group: such as "latentbank.lenses".
    """
    found = {(entry.name, entry.value): entry for entry in _declared(group)}
    found |= {(entry.name, entry.value): entry for entry in entry_points(group=group)}
    return [found[key] for key in sorted(found)]


def extensions_of(
    group: str, what: str, kinds: tuple[type, ...], broken: Callable[[str], None]
) -> Iterator[Any]:
    """Yield what the entry points of a group name; those that are broken are left out.

    Args:
        group: such as "latentbank.lenses".
        what: what they are, for messages, such as "lens".
        kinds: the classes of which they must be instances; (): any object, such as a module.
        broken: called with a message about each that cannot be loaded or is something else; it may raise.
    """
    for entry in entry_points_of(group):
        described = f"The installed {what} '{entry.name}' ({entry.value})"
        try:
            found = entry.load()
        except Exception as error:  # another package's code can fail in any way
            broken(f"{described} cannot be loaded ({first_line(error)}); repair or remove its package.")
            continue
        if kinds and not isinstance(found, kinds):
            kind = f"{kinds[0].__name__} of {kinds[0].__module__}"
            broken(f"{described} is not a {kind}; repair or remove its package.")
            continue
        yield found


def _declared(group: str) -> list[EntryPoint]:
    """Return the entry points of a group in the checkout's pyproject.toml; none if this is not a checkout."""
    import tomllib

    try:
        text = (Path(latentbank.__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
        project = tomllib.loads(text)["project"]
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return []
    if project.get("name") != "latentbank":
        return []
    return [
        EntryPoint(name, value, group)
        for name, value in project.get("entry-points", {}).get(group, {}).items()
    ]
