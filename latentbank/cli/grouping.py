"""Commands that take groups of options as dataclasses.

typer reads one parameter for each option. Many commands share the same options, so these are written once, as the
fields of a frozen dataclass, and a command takes the dataclass. `command` gives typer the flat parameters it needs.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand

from latentbank.errors import LatentBankError
from latentbank.text import listed

COMMANDS = {
    "compute_jacobian": "train lens --kind jacobian",
    "drop_corpus": "bank drop-corpus",
    "fill": "ingest run",
    "list_banks": "bank list",
    "train_tuned": "train lens",
    "upgrade_bank": "bank upgrade",
    "use_bank": "bank use",
}
"""The command that does what a function does, for each function that an error names."""

_Function = TypeVar("_Function", bound=Callable[..., None])


class Command(TyperCommand):
    """A command that names the option to change in the message of an error."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run the command."""
        try:
            return super().invoke(ctx)
        except LatentBankError as error:
            error.args = (message_of(error, ctx),)
            raise


def command(
    app: typer.Typer, name: str, *, example: str, first: str = ""
) -> Callable[[_Function], _Function]:
    """Return a decorator that registers a function as a command.

    Args:
        app: the group of commands.
        name: name of the command.
        example: the example below the command's help, without "latentbank".
        first: names of the parameters that `--help` shows first, with spaces; the others follow in their order.
    """

    def register(function: _Function) -> _Function:
        epilog = f"Example: latentbank {example}"
        app.command(name, cls=Command, epilog=epilog)(flat(function, first))
        return function

    return register


def flat(function: Callable[..., None], first: str = "") -> Callable[..., None]:
    """Return `function` with one parameter for each field of the dataclasses among its parameters.

    The fields' types are `Annotated[..., typer.Option(...)]`; their defaults are the options' defaults.

    Raises:
        TypeError: two options have the same name.
    """
    hints = get_type_hints(function, include_extras=True)
    parameters: dict[str, inspect.Parameter] = {}
    groups: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if is_dataclass(hints[name]):
            groups[name] = hints[name]
            added = _parameters_of(hints[name])
        else:
            added = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])]
        for option in added:
            if option.name in parameters:
                raise TypeError(f"{function.__name__} has two options '{option.name}'")
            parameters[option.name] = option

    @functools.wraps(function)
    def called(**values: Any) -> None:
        built = {
            name: group(**{field.name: values.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        function(**values, **built)

    names = dict.fromkeys([*first.split(), *parameters])
    ordered = [parameters[name] for name in names]
    called.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
    called.__annotations__ = {option.name: option.annotation for option in ordered}
    return called


@contextmanager
def named_otherwise(**options: str) -> Iterator[None]:
    """Let errors in the block name the command's own options.

    Args:
        options: the option's parameter by the name that a function of the library gives its argument.
    """
    try:
        yield
    except LatentBankError as error:
        error.argument = options.get(error.argument or "", error.argument)
        raise


def message_of(error: LatentBankError, ctx: typer.Context) -> str:
    """Return an error's message, with the option to change and the commands that help.

    "load it in float32" becomes "load it in float32 (--dtype)" if the running command has an option of that name.
    """
    message = str(error)
    options = [
        option
        for parameter in ctx.command.params
        if parameter.name == error.argument and parameter.param_type_name == "option"
        for option in (
            next((text for text in parameter.opts if text.startswith("--")), parameter.opts[0]),
            *parameter.secondary_opts,  # --no-header, of --header/--no-header
        )
    ]
    commands = [f"latentbank {COMMANDS[name]}" for name in error.functions]
    hints = [hint for hint in (*options, *commands) if hint not in message]
    if not hints:
        return message
    end = "." if message.endswith(".") else ""
    return f"{message.removesuffix('.')} ({listed(hints)}){end}"


def _parameters_of(group: Any) -> list[inspect.Parameter]:
    """Return a keyword parameter for each field of a dataclass."""
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(group)
    ]
