"""Standard streams in any encoding, full or closed; arguments that are not text; JSON that stays JSON."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest

from latentbank.cli import main
from latentbank.cli.output.text import json_list, print_json
from latentbank.cli.streams import OutputError, complain, guarded_streams
from latentbank.errors import LatentBankError, QueryError

DATA = {"text": 'naïve 猫 😀 \udce9 \\ "', "number": 1}


@pytest.fixture
def listing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`latentbank bank list --json` in an empty folder."""
    monkeypatch.setenv("LATENTBANK_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["latentbank", "bank", "list", "--json"])


@pytest.mark.parametrize("encoding", ["utf-8", "gbk", "ascii", "latin-1", "cp1252", "shift_jis"])
def test_json_escapes_what_an_encoding_lacks(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    with guarded_streams():
        print_json(DATA)
        print("naïve 猫 😀")
        sys.stdout.flush()
    text = written.getvalue().decode(encoding)
    head, _, rest = text.partition("\n}\n")
    assert json.loads(head + "}") == DATA
    assert ("猫" in head) == ("猫" in rest) == (encoding in ("utf-8", "gbk", "shift_jis"))
    assert ("naïve" in head) == ("naïve" in rest) == (encoding in ("utf-8", "latin-1", "cp1252"))


def test_a_list_is_json_also_after_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with json_list() as put:
        put({"a": 1})
        put({"b": 2})
    assert json.loads(capsys.readouterr().out) == [{"a": 1}, {"b": 2}]
    for entries in ([{"a": 1}], []):
        with pytest.raises(QueryError):
            _failing_after(entries)
        out = capsys.readouterr().out
        assert (json.loads(out) if out else []) == entries
        assert bool(out) == bool(entries)
    with json_list():
        pass
    assert json.loads(capsys.readouterr().out) == []


def _failing_after(entries: list[dict[str, int]]) -> None:
    with json_list() as put:
        for entry in entries:
            put(entry)
        raise QueryError("no")


def _full() -> TextIO:
    return open("/dev/full", "w", encoding="utf-8")


def _without_reader() -> TextIO:
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w", encoding="utf-8")


def _closed() -> TextIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize(
    ("made", "says"),
    [
        pytest.param(
            _full,
            "No space left on device",
            marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full"),
        ),
        (_closed, "it is closed"),
        (lambda: None, "Standard output is closed"),
    ],
)
def test_output_that_cannot_be_written_ends_in_one_line(
    made: Callable[[], TextIO],
    says: str,
    listing: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stream = made()
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert sys.stdout is stream
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    if stream is not None:
        stream.close()  # nothing is left to write


def test_a_reader_that_ends_is_no_error_to_report(
    listing: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with _without_reader() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("made", [_without_reader, lambda: None])
def test_a_command_works_without_standard_error(
    made: Callable[[], TextIO],
    listing: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stderr", made())
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["banks"] == []
    monkeypatch.setattr(sys, "argv", ["latentbank", "bank", "info", "nosuch"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().out == ""  # the message has not gone there instead


@pytest.mark.parametrize("words", [["bank", "list"], ["bank", "delete", "nosuch"]])
def test_a_command_works_without_standard_input(
    words: list[str], listing: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["latentbank", *words])
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == (0 if words[-1] == "list" else 2)
    assert "Traceback" not in capsys.readouterr().err


def test_closed_streams_of_a_process_are_not_taken_by_files(tmp_path: Path) -> None:
    """The first file that a process opens gets the number of a closed stream, and then what is printed there."""
    code = (
        "import os, sys\n"
        "from latentbank.cli.streams import guarded_streams\n"
        "with guarded_streams():\n"
        "    file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)\n"
        "    os.write(2, b'a library complains')\n"
        "    sys.stdout.write(str(file))\n"
    )
    path = tmp_path / "file"
    command = f'exec "{sys.executable}" -c "$0" "$1" <&- 2>&-'
    done = subprocess.run(["sh", "-c", command, code, str(path)], capture_output=True, text=True)
    assert (done.returncode, path.read_bytes()) == (0, b"")
    assert int(done.stdout) > 2


def test_a_question_without_an_answer_deletes_nothing(
    listing: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("latentbank.bank.opening.check_deletion", lambda *_: "b")
    monkeypatch.setattr(sys, "argv", ["latentbank", "bank", "delete", "b"])
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "nothing was deleted; give --yes" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["caf\udce9 dog", "--where=word=\udce9", "\ud83d"])
def test_arguments_that_are_not_text_are_named(
    word: str, listing: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["latentbank", "query", "text", word])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert f"The argument {word!a} is no text in utf-8" in err
    assert err.count("\n") == 1


def test_a_complaint_takes_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    complain("No such file: two\nlines; check the path.")
    assert capsys.readouterr().err == "latentbank: No such file: two lines; check the path.\n"


def test_an_error_of_the_command_is_not_hidden() -> None:
    with pytest.raises(LatentBankError, match="its own") as raised, guarded_streams():
        raise LatentBankError("its own")
    assert not isinstance(raised.value, OutputError)
