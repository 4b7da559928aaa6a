"""The command line: every command is a few calls of the library."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

import typer
from typer.core import TyperGroup

from latentbank.cli import (
    bank,
    bank_context,  # noqa: F401 (adds its command to those of `bank`)
    bank_move,  # noqa: F401 (the same)
    bank_tune,  # noqa: F401 (the same)
    evaluate,
    experiment,
    experiment_cause,  # noqa: F401 (adds its command to those of `experiment`)
    experiment_lenses,  # noqa: F401 (adds its command to those of `experiment`)
    experiment_models,  # noqa: F401 (adds its command to those of `experiment`)
    experiment_silence,  # noqa: F401 (adds its command to those of `experiment`)
    images,
    images_ask,  # noqa: F401 (adds its commands to those of `images`)
    importing,
    ingest,
    ingest_grow,  # noqa: F401 (adds its command to those of `ingest`)
    ingest_recipe,  # noqa: F401 (adds its command to those of `ingest`)
    query,
    query_audio,  # noqa: F401 (adds its command to those of `query`)
    query_image,  # noqa: F401 (adds its commands to those of `query`)
    query_states,  # noqa: F401 (adds its command to those of `query`)
    query_video,  # noqa: F401 (as above)
    train,
    train_lens,  # noqa: F401 (adds its commands to those of `train` and `import`)
)
from latentbank.cli.agreement import agreement
from latentbank.cli.annotate import annotate
from latentbank.cli.calibrate import calibrate
from latentbank.cli.cause import cause
from latentbank.cli.doctor import doctor
from latentbank.cli.grouping import command, flat
from latentbank.cli.judge import judge
from latentbank.cli.options.common import GlobalOptions
from latentbank.cli.reproduce import reproduce
from latentbank.cli.streams import ReaderEnded, check_arguments, complain, guarded_streams
from latentbank.cli.view import view
from latentbank.errors import LatentBankError
from latentbank.memory import collect_rarely, keep_memory

_NAME = "latentbank"
# Of what typer itself says about options, arguments and names of commands.
_UsageError: Any = typer.BadParameter.__base__


class _Root(TyperGroup):
    """The command before which the global options stand."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Parse the command line and run the command; what is wrong with it is one line, as with other errors.

        Raises:
            LatentBankError: an option, an argument or a command's name is wrong.
        """
        try:
            code = super().main(*args, **{**options, "standalone_mode": False})
        except _UsageError as error:
            if type(error).__name__ == "NoArgsIsHelpError":  # its help was printed
                sys.exit(error.exit_code)
            message = " ".join(error.format_message().split()).rstrip(".")
            command = error.ctx.command_path if error.ctx else _NAME
            raise LatentBankError(f"{message}; see {command} --help.") from None
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run the command; print the traceback of an error under --debug."""
        try:
            return super().invoke(ctx)
        except LatentBankError:
            if GlobalOptions.of(ctx).debug:
                traceback.print_exc()
            raise


def _global_options(ctx: typer.Context, *, options: GlobalOptions) -> None:
    ctx.obj = options


app = typer.Typer(
    cls=_Root,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="What do a vision-language model's tokens mean? Fill banks of contexts, and read them.",
)
app.callback()(flat(_global_options))
command(app, "doctor", example="doctor SmolLM2-135M")(doctor)
for _group, _name, _example in (
    (app, "calibrate", "calibrate demo --bank demo"),
    (
        query.app,
        "means",
        "query means demo --images photos",
    ),  # another name, of before there were corrections
):
    command(_group, _name, example=_example, first="model images bank visual_layers bank_layers")(calibrate)
command(app, "view", example="view --model demo", first="bank model")(view)
command(
    app,
    "cause",
    example="cause photo.jpg --model demo --word dog --layers 0,4,8,12,16",
    first="image word bank model layers lens by others tokens draws",
)(cause)
command(app, "annotate", example="annotate readings/ --output annotations.jsonl", first="readings")(annotate)
command(
    app,
    "judge",
    example="judge readings/ --model gpt-5 --dry-run",
    first="readings model base_url output dry_run",
)(judge)
command(app, "agreement", example="agreement votes.csv --page disagreements.html", first="files")(agreement)
command(app, "reproduce", example="reproduce --preset demo -o reproduction", first="plan preset output")(
    reproduce
)
for _name, _group in (
    ("ingest", ingest.app),
    ("bank", bank.app),
    ("images", images.app),
    ("query", query.app),
    ("evaluate", evaluate.app),
    ("experiment", experiment.app),
    ("train", train.app),
    ("import", importing.app),
):
    app.add_typer(_group, name=_name)


def main() -> None:
    """Run the command line: one line and exit code 2 for errors a user can fix."""
    # Both variables are read when torch and tqdm are imported, which has not happened yet.
    # Threads that wait must not spin: the writer needs the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    collect_rarely()
    keep_memory()
    try:
        with guarded_streams():
            if not sys.stderr.isatty():
                os.environ.setdefault(
                    "TQDM_DISABLE", "1"
                )  # libraries draw their bars into pipes and files too
            check_arguments(sys.argv[1:])
            app(prog_name=_NAME)
    except ReaderEnded:
        sys.exit(1)
    except LatentBankError as error:
        complain(str(error))
        sys.exit(2)
    except KeyboardInterrupt:  # a further Ctrl-C, while the first one ended the command
        _stopped()
        sys.exit(130)
    except SystemExit as stopped:
        if stopped.code == 130:  # typer's exit code for Ctrl-C
            _stopped()
        raise


def _stopped() -> None:
    complain("stopped; what was stored is safe, the same command continues.")
