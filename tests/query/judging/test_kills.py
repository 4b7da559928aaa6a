"""A judging that is killed and run again asks nothing again whose answer had arrived."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path

from latentbank.query.judging.answers import open_answers
from latentbank.query.judging.endpoint import Endpoint
from latentbank.query.judging.judge import ask
from latentbank.query.judging.questions import find_questions
from latentbank.query.judging.sources import sources_of
from tests import children
from tests.query.judging.asked import readings_in
from tests.wire.chat import Body, asked, chat_stub, says

_ASK = """
import sys
from pathlib import Path
from latentbank.query.judging.answers import open_answers
from latentbank.query.judging.endpoint import Endpoint
from latentbank.query.judging.judge import ask
from latentbank.query.judging.questions import find_questions
from latentbank.query.judging.sources import sources_of

readings, url, folder = sys.argv[1:]
questions = find_questions([readings]).asked
with open_answers(Path(folder), url, "gpt") as answers:
    ask(questions, Endpoint("gpt", url, concurrency=3), sources_of(questions), answers)
"""


def test_what_had_arrived_is_not_asked_again(tmp_path: Path) -> None:
    _, readings = readings_in(tmp_path, 6)
    questions = find_questions([readings]).asked
    alive = True
    # Five answers arrive, and none after them while the judging is alive.
    with chat_stub(
        lambda body: says(concrete=asked(body)[:1], abstract=[]), lambda _, number: alive and number > 5
    ) as stub:
        killed = children.Popen([sys.executable, "-c", _ASK, str(readings), stub.url, str(tmp_path / "kept")])
        while (
            not (files := list((tmp_path / "kept").glob("*.jsonl")))
            or len(_lines(files[0])) < 5
            or len(stub.bodies) < 8
        ):
            assert killed.poll() is None
            time.sleep(0.01)
        killed.kill()
        killed.wait()
        alive = False
        kept = {json.loads(line)["key"] for line in _lines(files[0])}
        first = [_named(body) for body in stub.bodies]
        assert (len(kept), len(first)) == (5, 8)
        with open_answers(tmp_path / "kept", stub.url, "gpt") as answers:
            judge = Endpoint("gpt", stub.url, concurrency=3)
            verdicts = ask(questions, judge, sources_of(questions), answers)
    assert all(verdict.interpretable for verdict in verdicts)
    times = Counter(map(_named, stub.bodies))
    assert len(times) == len(questions)
    assert {name for name, count in times.items() if count > 1} == set(first[5:])  # those in flight
    assert sum(times.values()) == len(questions) + 3


def _lines(file: Path) -> list[bytes]:
    """The lines of a file that are whole."""
    return file.read_bytes().split(b"\n")[:-1]


def _named(body: Body) -> str:
    return json.dumps(body["messages"])
