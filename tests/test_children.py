"""Programs that are forks: they are children of this process, and get what they would get as fresh ones."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import children

HERE = """
import os, sys
print(os.getppid(), os.getcwd(), sys.argv, os.environ["A"], "tests" in sys.modules, sys.path[0])
"""


def test_a_program_gets_its_words_folder_and_variables(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(HERE, encoding="utf-8")
    for words, name, first in (
        (["-c", HERE], "-c", ""),
        (["-m", "mine"], str(tmp_path / "mine.py"), str(tmp_path)),
    ):
        done = children.run([sys.executable, *words, "b", "c"], cwd=tmp_path, env=os.environ | {"A": "d"})
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"{os.getpid()} {tmp_path} {[name, 'b', 'c']} d False {first}\n"


def test_a_program_imports_from_the_paths_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("print('imported')", encoding="utf-8")
    for option, path, code in (([], tmp_path, 0), ([], tmp_path / "other", 1), (["-P"], tmp_path, 0)):
        done = children.run(
            [sys.executable, *option, "-m", "mine"], env=os.environ | {"PYTHONPATH": str(path)}
        )
        assert (done.returncode, done.stdout) == (code, "imported\n" * (not code))
    assert children.run([sys.executable, "-P", "-m", "mine"], cwd=tmp_path).returncode == 1


@pytest.mark.parametrize(
    ("code", "ended", "said"),
    [
        ("pass", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("sys.exit('no')", 1, "no\n"),
        ("import atexit; atexit.register(print, 'end', file=sys.stderr)", 0, "end\n"),
        ("raise KeyError('x')", 1, "KeyError: 'x'\n"),
        ("raise KeyboardInterrupt", -signal.SIGINT, "KeyboardInterrupt\n"),
        ("os.kill(os.getpid(), 9)", -signal.SIGKILL, ""),
    ],
)
def test_how_a_program_ends(code: str, ended: int, said: str) -> None:
    done = children.run([sys.executable, "-c", f"import os, sys; {code}"])
    assert (done.returncode, done.stdout) == (ended, "")
    assert done.stderr.endswith(said)
    with pytest.raises(subprocess.CalledProcessError) if ended else contextlib.nullcontext():
        children.run([sys.executable, "-c", f"import os, sys; {code}"], check=True)


def test_a_program_can_be_talked_to_interrupted_and_given_files() -> None:
    reading, writing = os.pipe()
    code = (
        "import os, sys, time\n"
        f"os.write({writing}, sys.stdin.readline().encode())\n"
        "print(os.getpgid(0) == os.getpid(), flush=True)\n"
        # Not one long wait: a signal just before it would end nothing.
        "while True:\n    time.sleep(0.01)\n"
    )
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    words = [sys.executable, "-c", code]
    with children.Popen(words, pass_fds=[writing], process_group=0, text=True, **pipes) as started:
        os.close(writing)
        assert started.stdin is not None
        assert started.stdout is not None
        started.stdin.write("hello\n")
        started.stdin.flush()
        assert started.stdout.readline() == "True\n"
        assert os.read(reading, 100) == b"hello\n"
        assert started.poll() is None
        started.send_signal(signal.SIGINT)
        assert started.wait(60) == -signal.SIGINT
    os.close(reading)


def test_temporary_files_lie_where_a_variable_says(tmp_path: Path) -> None:
    words = [sys.executable, "-c", "import tempfile; print(tempfile.gettempdir())"]
    assert children.run(words, env=os.environ | {"TMPDIR": str(tmp_path)}).stdout == f"{tmp_path}\n"


def test_others_are_started_as_usual() -> None:
    assert children.run(["echo", "a"]).stdout == "a\n"
    fresh = children.run([sys.executable, "-S", "-c", "import sys; print(sys.flags.no_site)"])
    assert fresh.stdout == "1\n"
