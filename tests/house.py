"""The code as a tree of modules: their imports, the lengths of files and functions, and their strings."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "latentbank"  # its subpackages are links in a checkout, folders in an sdist
ROOMS = ("bank", "demo", "ingest", "models", "query")


@dataclass(frozen=True)
class Module:
    """One file of the package.

    Attributes:
        name: as it is imported, such as "latentbank.bank.where"; a package by its own name.
        path: the file.
    """

    name: str
    path: Path

    @property
    def room(self) -> str:
        """The part of its name after "latentbank"; empty for the face."""
        return self.name.partition(".")[2].partition(".")[0]

    @cached_property
    def source(self) -> str:
        """The file's text."""
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed file."""
        return ast.parse(self.source)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """All nodes of the parsed file."""
        return list(ast.walk(self.tree))

    @cache  # noqa: B019 - there is one of each file
    def imported(self, *, for_types: bool) -> frozenset[str]:
        """Return the dotted names that it imports, in functions too; those of `from` with each name they take.

        Args:
            for_types: whether imports under `if TYPE_CHECKING` count.
        """
        found: set[str] = set()
        for node in self.nodes if for_types else _loaded(self.tree):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
        return frozenset(found)


def modules() -> dict[str, Module]:
    """Return all modules of latentbank by name."""
    found = {}
    for folder in (PACKAGE, PACKAGE / "cli", *(PACKAGE / room for room in ROOMS)):
        files = folder.glob("*.py") if folder == PACKAGE else folder.rglob("*.py")
        for path in files:
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = Module(name, path)
    return dict(sorted(found.items()))


def imports(all_modules: dict[str, Module], module: Module, *, for_types: bool) -> set[str]:
    """Return the names of the modules of latentbank that a module imports."""
    found = set()
    for name in module.imported(for_types=for_types):
        target = name if name in all_modules else name.rpartition(".")[0]
        if target in all_modules:
            found.add(target)
    return found


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Return the circles of a graph: each group of nodes that reach one another."""
    reached = {name: _reached(arrows, name) for name in arrows}
    groups = {
        frozenset(other for other in reached[name] if name in reached[other])
        for name in arrows
        if name in reached[name]
    }
    return sorted(sorted(group) for group in groups)


def functions(module: Module) -> Iterator[tuple[str, int]]:
    """Yield the functions of a module with their lengths in lines, docstrings counted."""
    for node in module.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def prose(module: Module) -> Iterator[tuple[int, str]]:
    """Yield a module's strings and comments with their lines; values in f-strings are shown as {}."""
    inside: set[int] = set()
    for node in module.nodes:
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in ast.walk(node) if part is not node}
            parts = (part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(module.source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def _loaded(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the nodes outside of `if TYPE_CHECKING`."""
    ahead: list[ast.AST] = [tree]
    while ahead:
        node = ahead.pop()
        yield node
        ahead += [
            child
            for child in ast.iter_child_nodes(node)
            if not (isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"))
        ]


def _reached(arrows: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    ahead = list(arrows[start])
    while ahead:
        name = ahead.pop()
        if name not in found:
            found.add(name)
            ahead += arrows[name]
    return found
