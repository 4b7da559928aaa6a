"""Entry points through which packages extend latentbank: lenses, families of models, corpus formats."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import latentbank


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
