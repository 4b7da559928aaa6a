"""Runs the driver of a Ray job in a process of its own.

Ray writes to the terminal from C++, and where a cluster's head is lost it ends the driver's process, whatever Python
would do. So the driver is another process: what it writes there is kept for those who look for the cause, and its end
is one sentence. A program that has connected to Ray itself is its own driver.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

import latentbank
from latentbank.errors import LatentBankError
from latentbank.progress import Progress, Silent

# Seconds that the process has to leave the cluster after its work.
_LEAVE_SECONDS = 20.0
# What is kept of what Ray wrote, in characters.
_KEPT = 4000
_HERE = str(Path(latentbank.__file__).parent.parent)


def drive_apart(work: partial[Any], progress: Progress | None = None) -> Any:
    """Call `work` with a Progress as its last argument, in another process, and return what it returns.

    Args:
        work: a function of a module and its arguments. These, and what it returns, can be pickled.
        progress: receives the work's progress.

    Raises:
        LatentBankError: the work raised one, or the process ended before the work.
    """
    progress = progress or Silent()
    ray: Any = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return work(progress)
    # What this process can import, the other one can.
    paths = [_HERE, *(entry for entry in sys.path if isinstance(entry, str) and entry)]
    with (
        tempfile.TemporaryFile("w+", errors="replace") as noise,
        subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=noise,
            process_group=0,  # only this process gets Ctrl-C from the terminal; it then ends the other one
        ) as driver,
    ):
        try:
            assert driver.stdin is not None
            assert driver.stdout is not None
            with suppress(BrokenPipeError):
                pickle.dump(work, driver.stdin)
                driver.stdin.flush()
            answer = _follow(driver.stdout, progress)
        finally:
            _end(driver)
        if answer is None:
            noise.seek(0)
            raise LatentBankError(
                f"The connection to the Ray cluster was lost (the process that hands out shares {_how(driver)}); what "
                "was stored is safe. Run the job again once the cluster is well, it continues."
            ) from RuntimeError(noise.read()[-_KEPT:])
    if "error" in answer:
        cause = RuntimeError(answer["trace"])
        error = LatentBankError(answer["error"])
        error.argument = answer["argument"]
        raise error from cause
    return pickle.loads(bytes.fromhex(answer["result"]))


def _follow(lines: IO[bytes], progress: Progress) -> dict[str, Any] | None:
    """Pass on the progress until the answer comes; None if it never does."""
    for line in lines:
        message = json.loads(line)
        if "done" not in message:
            return dict(message)
        progress.update(message["done"], message["total"])
    return None


def _end(driver: subprocess.Popen[bytes]) -> None:
    """Let the process leave the cluster, or end it."""
    with suppress(OSError):
        driver.stdin.close()  # type: ignore[union-attr]  # a pipe
    try:
        driver.wait(_LEAVE_SECONDS)
    except BaseException:
        driver.kill()
        driver.wait()


def _how(driver: subprocess.Popen[bytes]) -> str:
    code = driver.returncode
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"


class _Reported:
    """Progress that is passed on to the process that waits."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out

    def update(self, done: float, total: float | None = None) -> None:
        """Pass it on."""
        print(json.dumps({"done": done, "total": total}), file=self._out, flush=True)

    def stage(self, what: str, unit: str) -> None:
        """Do nothing: the work has one stage."""

    def note(self, text: str) -> None:
        """Do nothing: what is noted here is not shown there."""


def main() -> None:
    """Do the work that standard input holds; answers are lines of JSON on standard output."""
    import traceback

    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is written is noise
    work: Callable[[Progress], Any] = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        result = work(_Reported(out))
        answer: dict[str, str | None] = {"result": pickle.dumps(result).hex()}
    except LatentBankError as error:
        answer = {"error": str(error), "argument": error.argument, "trace": traceback.format_exc()}
    except Exception as error:
        text = (
            f"The job on Ray failed ({type(error).__name__}: {error}); what was stored is safe, run it again."
        )
        answer = {"error": " ".join(text.split()), "argument": None, "trace": traceback.format_exc()}
    print(json.dumps(answer), file=out, flush=True)


def _end_with_parent() -> None:
    """End this process when the one that started it no longer waits: its end of standard input closes."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
