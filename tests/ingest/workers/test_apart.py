"""The driver of a Ray job in a process of its own: what it returns, and each way in which it may end."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import ray
from ray import exceptions

from latentbank.errors import LatentBankError
from latentbank.ingest.workers.apart import drive_apart
from latentbank.ingest.workers.ray_cluster import cluster
from tests.ingest.workers import works


class Recorder:
    """Progress that is kept."""

    def __init__(self) -> None:
        self.updates: list[tuple[float, float | None]] = []

    def update(self, done: float, total: float | None = None) -> None:
        self.updates.append((done, total))

    def stage(self, what: str, unit: str) -> None: ...


def test_results_and_progress_come_back_and_noise_does_not(capfd: pytest.CaptureFixture[str]) -> None:
    recorder = Recorder()
    assert drive_apart(partial(works.count, 2), recorder) == works.Counted(2, "é")
    assert recorder.updates == [(1, 2), (2, 2)]
    assert drive_apart(partial(works.names)) == ["10.0.0.7"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("work", "sentence", "cause"),
    [
        (works.refuse, "Name a folder.", "works.py"),
        (
            works.fail,
            "The job on Ray failed (ValueError: unheard of in two lines); what was stored is safe, run it again.",
            "works.py",
        ),
        (
            works.abort,
            "The connection to the Ray cluster was lost (the process that hands out shares ended with 1); what was "
            "stored is safe. Run the job again once the cluster is well, it continues.",
            "Failed to connect to GCS",
        ),
        (
            works.crash,
            "The connection to the Ray cluster was lost (the process that hands out shares was ended by SIGKILL); what "
            "was stored is safe. Run the job again once the cluster is well, it continues.",
            "",
        ),
    ],
)
def test_each_end_is_one_sentence(
    work: Callable[..., Any], sentence: str, cause: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(LatentBankError) as caught:
        drive_apart(partial(work))
    assert str(caught.value) == sentence
    assert caught.value.argument == ("plan" if work is works.refuse else None)
    assert cause in str(caught.value.__cause__)  # shown under --debug
    assert capfd.readouterr() == ("", "")


def task_error(cause: str) -> exceptions.RayTaskError:
    """Return the error of a worker as Ray Data raises it: its own error follows the worker's."""
    text = (
        f'ray::MapWorker() (pid=1)\n  File "x.py", line 1\n{cause}\n\n'
        "The above exception was the direct cause of the following exception:\n\n"
        "ray::MapWorker() (pid=1)\nray.exceptions.UserCodeException: UDF failed.\nTo change retry attempts …"
    )
    return exceptions.RayTaskError("work", text, exceptions.UserCodeException("UDF failed"))


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (exceptions.ActorDiedError(), "was lost (ActorDiedError)"),
        (exceptions.ActorUnavailableError("away", None), "was lost (ActorUnavailableError)"),
        (exceptions.NodeDiedError("gone"), "was lost (NodeDiedError)"),
        (exceptions.LocalRayletDiedError(), "was lost (LocalRayletDiedError)"),
        (exceptions.WorkerCrashedError(), "was lost (WorkerCrashedError)"),
        (exceptions.ObjectLostError("ab" * 28, None, ""), "was lost (ObjectLostError)"),
        (exceptions.OwnerDiedError("ab" * 28, None, ""), "was lost (OwnerDiedError)"),
        (exceptions.RaySystemError("gone"), "was lost (RaySystemError)"),
        (exceptions.OutOfMemoryError("full"), "was lost (OutOfMemoryError)"),
        (ConnectionError("the client is shutting down"), "was lost (ConnectionError)"),
        (
            task_error("torch.OutOfMemoryError: CUDA out of memory"),
            "worker on Ray failed (OutOfMemoryError: CUDA out of memory)",
        ),
        (
            task_error("latentbank.errors.CorpusError: The corpus: it is another."),
            "The corpus: it is another.",
        ),
    ],
)
def test_each_error_of_ray_is_one_sentence(
    error: Exception, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    with pytest.raises(LatentBankError) as caught, cluster("auto"):
        raise error
    text = str(caught.value)
    assert sentence in text
    assert "\n" not in text
    assert text.endswith(("it continues.", "another."))
