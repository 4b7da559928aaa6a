"""Programs of Python that tests start, as forks of a process that has done the imports of most of them.

A program that imports torch and transformers spends seconds of processor time on it. Each worker of pytest-xdist
has a process that forks such programs: a fork like the worker (`tests/forking.py`), made before the worker did
anything. `Popen`, `run` and `start_fork_server` use it, and start programs as usual where there is none. What they
start is a child of this process.

A fork has imported the packages of others already, and they have read the environment. Tests of imports, of start-up
and of such variables start their programs as usual.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import json
import multiprocessing.util
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver, resource_tracker
from typing import Any, NoReturn
from unittest.mock import patch

_MOST = 1 << 20  # bytes of a request
_MOST_FILES = 64
_HIGH = 512  # more than the number of any file that a program gets
_SPAWN = multiprocessing.util.spawnv_passfds
_PR_SET_CHILD_SUBREAPER = 36

_forker: socket.socket | None = None
_lock = threading.Lock()


class Popen(subprocess.Popen[str]):
    """A program, as `subprocess.Popen` starts it: a fork, if it is this Python with `-c` or `-m`."""

    def _execute_child(self, args: Any, *given: Any) -> None:
        words = [args] if isinstance(args, str) else [os.fspath(word) for word in args]
        if not _can_fork(words):
            super()._execute_child(args, *given)  # type: ignore[misc]
            return
        pass_fds, cwd, env = given[3:6]
        pipes, group = given[9:15], given[-1]
        streams = dict(zip((0, 1, 2), (pipes[0], pipes[3], pipes[5]), strict=True))
        files = {number: number for number in (0, 1, 2, *pass_fds)}
        files |= {number: file for number, file in streams.items() if file != -1}
        self.pid = _fork(words, files, cwd, env, group)
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def run(
    words: Sequence[str], *, check: bool = False, timeout: float | None = None, **given: Any
) -> subprocess.CompletedProcess[str]:
    """Run a program as `subprocess.run` does, and return its exit code with the text of its output and errors."""
    with Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **given) as process:
        try:
            output, complaint = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(words, process.returncode, output, complaint)
    if check:
        done.check_returncode()
    return done


def start_fork_server() -> None:
    """Start the fork server of multiprocessing, unless it runs. Say before what it imports."""
    resource_tracker.ensure_running()
    with patch.object(multiprocessing.util, "spawnv_passfds", _spawn):
        forkserver.ensure_running()


def _spawn(path: bytes, words: Sequence[str], files: Sequence[int]) -> int:
    words = [os.fsdecode(word) for word in words]
    if not _can_fork(words):
        return _SPAWN(path, words, files)
    return _fork(words, {number: number for number in (0, 1, 2, *files)})


def _can_fork(words: Sequence[str]) -> bool:
    return _forker is not None and words[0] == sys.executable and _option(words) in ("-c", "-m")


def _option(words: Sequence[str]) -> str:
    """Return the first option of Python beside those that a fork can have."""
    return next(word for word in [*words[1:], ""] if word not in ("-B", "-P"))


def _fork(
    words: Sequence[str],
    files: Mapping[int, int],
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    group: int = -1,
) -> int:
    """Start a program, and return its process's number. `files`: its open files, by the numbers that they get there."""
    assert _forker is not None
    variables = dict(os.environ if env is None else env)
    told = json.dumps([list(words), list(files), os.fspath(cwd or os.getcwd()), variables, group])
    system = ctypes.CDLL(None)
    with _lock:
        # What loses its parent now becomes a child of this process.
        system.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            socket.send_fds(_forker, [told.encode()], list(files.values()))
            return int(_forker.recv(_MOST))
        finally:
            system.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


# In the process that forks


def fork_programs(paths: Sequence[str], without: socket.socket) -> None:
    """Fork the process that forks programs for this one.

    `paths`: what every program imports from. `without`: a connection of this process alone.
    """
    global _forker
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork():
        theirs.close()
        _forker = ours
        return
    ours.close()
    without.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    while True:
        told, given, _, _ = socket.recv_fds(theirs, _MOST, _MOST_FILES)
        if not told:
            os._exit(0)
        words, numbers, folder, variables, group = json.loads(told)
        reading, writing = os.pipe()
        between = os.fork()
        if between == 0:
            parent, program = os.getpid(), os.fork()
            if program == 0:
                while os.getppid() == parent:
                    time.sleep(0.001)
                for end in (theirs.detach(), reading, writing):
                    os.close(end)
                _take(dict(zip(numbers, given, strict=True)))
                os.chdir(folder)
                _be(words, variables, paths)
            if group >= 0:
                os.setpgid(program, group)
            os.write(writing, str(program).encode())
            os._exit(0)  # the program loses its parent
        os.waitpid(between, 0)
        theirs.send(os.read(reading, _MOST))
        for file in (reading, writing, *given):
            os.close(file)


def _take(files: Mapping[int, int]) -> None:
    """Give open files the numbers that they are to have."""
    high = {number: fcntl.fcntl(file, fcntl.F_DUPFD, _HIGH) for number, file in files.items()}
    for file in files.values():
        os.close(file)
    for number, file in high.items():
        os.dup2(file, number)
        os.close(file)


def _be(words: Sequence[str], variables: Mapping[str, str], paths: Sequence[str]) -> NoReturn:
    """Do what Python does with these words and environment variables, and end."""
    os.environ.clear()
    os.environ.update(variables)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tempfile.tempdir = None  # a variable names it
    # Those of before know what kind of file they wrote to.
    sys.stdin = sys.__stdin__ = os.fdopen(0, closefd=False)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
        del sys.modules[name]
    main = sys.modules["__main__"].__dict__
    main.pop("_serve", None)
    option = _option(words)
    at = words.index(option)
    sys.argv[:] = [option, *words[at + 2 :]]
    first = [] if "-P" in words[:at] else ["" if option == "-c" else os.getcwd()]
    named = variables.get("PYTHONPATH")
    sys.path[:] = [*first, *(named.split(os.pathsep) if named else []), *paths]
    try:
        if option == "-m":
            runpy._run_module_as_main(words[at + 1])  # type: ignore[attr-defined]
        else:
            exec(compile(words[at + 1], "<string>", "exec"), main)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            leave(end.code or 0)
        print(end.code, file=sys.stderr)
        leave(1)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        leave(1)
    leave(0)


def leave(code: int) -> NoReturn:
    """End this process without taking apart all that it has imported, which takes a second."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code & 0xFF)
