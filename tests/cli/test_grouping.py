"""Groups of options as dataclasses, and the option that an error's message names."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from latentbank.cli.grouping import command, flat
from latentbank.errors import LatentBankError, ModelError
from tests.cli.commands import Run, caller


@dataclass(frozen=True, kw_only=True)
class Size:
    width: Annotated[int, typer.Option("--width", "-w", help="Width.")]
    height: Annotated[int, typer.Option(help="Height.")] = 3


@dataclass(frozen=True, kw_only=True)
class Box(Size):
    names: Annotated[list[str] | None, typer.Argument()] = None


def example() -> tuple[typer.Typer, list[Any]]:
    """Return an app with the command `pack`, and the list of what it was called with."""
    app = typer.Typer(add_completion=False)
    calls: list[Any] = []

    @command(app, "pack", example="pack a --width 2", first="names fast")
    def pack(ctx: typer.Context, *, box: Box, fast: Annotated[bool, typer.Option("--fast")] = False) -> None:
        """Pack a box."""
        calls.append((ctx.info_name, box, fast))

    return app, calls


def test_a_command_gets_its_options_as_a_dataclass() -> None:
    app, calls = example()
    assert CliRunner().invoke(app, ["a", "b", "-w", "2", "--fast"]).exit_code == 0
    assert CliRunner().invoke(app, ["--width", "1", "--height", "4"]).exit_code == 0
    assert [call[1:] for call in calls] == [
        (Box(names=["a", "b"], width=2), True),
        (Box(names=None, width=1, height=4), False),
    ]
    missing = CliRunner().invoke(app, ["a"])
    assert (missing.exit_code, "--width" in missing.output) == (2, True)


def test_the_options_are_flat_and_in_the_order_that_is_asked_for() -> None:
    app, _ = example()
    pack = typer.main.get_command(app)
    assert [option.name for option in pack.params] == ["names", "fast", "width", "height"]
    assert pack.help == "Pack a box."
    assert pack.epilog == "Example: latentbank pack a --width 2"


def test_two_options_of_one_name_are_an_error() -> None:
    def twice(*, first: Size, second: Box) -> None: ...

    with pytest.raises(TypeError, match="twice has two options 'width'"):
        flat(twice)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    return caller(monkeypatch, capfd, tmp_path / "data", 150)


@pytest.mark.parametrize(
    ("message", "argument", "printed"),
    [
        ("It overflows; load it in float32", "dtype", "It overflows; load it in float32 (--dtype)"),
        ("It overflows. Load it in float32.", "dtype", "It overflows. Load it in float32 (--dtype)."),
        ("It runs code; allow it", "trust_remote_code", "It runs code; allow it (--trust-remote-code)"),
        ("Store fewer layers", "layers", "Store fewer layers (--layers)"),
        ("Store less of it with --limit", "limit", "Store less of it with --limit"),
        ("Name other files", "sources", "Name other files"),  # an argument, not an option
        ("Take fewer neighbors", "top_k", "Take fewer neighbors"),  # an option of other commands
        ("It is broken", None, "It is broken"),
    ],
)
def test_an_error_names_the_option_to_change(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    message: str,
    argument: str | None,
    printed: str,
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise ModelError(message, argument=argument)

    monkeypatch.setattr("latentbank.models.language.model.load_language_model", load)
    corpus = tmp_path / "few.txt"
    corpus.write_text("A dog.")
    code, out, err = run("ingest", "plan", corpus, "--model", "m")
    assert (code, out, err) == (2, "", f"latentbank: {printed}\n")
    assert f"ModelError: {printed}\n" in run("--debug", "ingest", "plan", corpus, "--model", "m")[2]


def test_an_error_names_the_commands_that_help(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise LatentBankError("Drop it, or list all.", functions=("drop_corpus", "list_banks"))

    monkeypatch.setattr("latentbank.bank.opening.list_versions", fail)
    printed = "Drop it, or list all (latentbank bank drop-corpus, latentbank bank list).\n"
    assert run("bank", "list")[2] == f"latentbank: {printed}"


def test_a_command_without_the_option_does_not_name_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise LatentBankError("It cannot be listed", argument="dtype")

    monkeypatch.setattr("latentbank.bank.opening.list_versions", fail)
    assert run("bank", "list")[2] == "latentbank: It cannot be listed\n"


def test_options_before_the_command_hold_for_one_run(run: Run, tmp_path: Path) -> None:
    listed = json.loads(run("--data-dir", tmp_path / "other", "bank", "list", "--json")[1])
    assert listed["where"] == str(tmp_path / "other")
    assert "Traceback" in run("--debug", "bank", "info", "nothing")[2]
    assert "Traceback" not in run("bank", "info", "nothing")[2]
    assert json.loads(run("bank", "list", "--json")[1])["where"] == str(tmp_path / "data")
