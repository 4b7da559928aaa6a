"""The live page's server over a real bank: readings, refusals, and the events that it sends to a browser."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.parse
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from latentbank.bank.bank import Bank
from latentbank.bank.where import All, Where
from latentbank.errors import BankMismatch, ModelError
from latentbank.ingest.corpus import corpus_from_sentences
from latentbank.ingest.job import store_plan
from latentbank.ingest.planning import plan_for
from latentbank.models.language.model import LanguageModel, load_language_model
from latentbank.query.calibration.calibrate import calibrate
from latentbank.query.calibration.calibration import load_calibration
from latentbank.query.calibration.correction import Correction
from latentbank.query.lenses.embedding import EmbeddingLens
from latentbank.query.lenses.latent import LatentLens
from latentbank.query.reading.text import read_text
from latentbank.query.reading.visual import read_image, read_images, read_layers
from latentbank.query.web import bodies
from latentbank.query.web.data import page_data, page_json
from latentbank.query.web.file import PAGE
from latentbank.query.web.guard import Guard
from latentbank.query.web.inputs import where_of
from latentbank.query.web.jobs import Job
from latentbank.query.web.server import _events as events_of
from latentbank.query.web.server import create_app
from latentbank.query.web.service import ReadingService
from tests.query.banks import SENTENCES, fill
from tests.query.patch_vlm import PatchVLM, picture
from tests.query.searches import block_second_layer, record_candidates
from tests.query.web.readings import HOSTILE, png
from tests.query.web.serving import NO_KEPT, serving
from tests.tiny import save_tiny

HOME = "http://127.0.0.1:8265"


@pytest.fixture
def vlm(tiny: LanguageModel) -> PatchVLM:
    return PatchVLM(tiny)


@pytest.fixture
def client(bank: Bank, vlm: PatchVLM) -> Iterator[TestClient]:
    pictures = {"a cat": png(picture(1))}
    service = ReadingService(bank, vlm)
    with TestClient(Guard(create_app(service, pictures)), base_url=HOME) as made:
        cast("Any", made).service = service
        yield made


def events(client: TestClient, job: str, kind: str = "message") -> list[dict[str, Any]]:
    response = client.get(f"/api/jobs/{job}/events")
    assert response.headers["content-type"].startswith("text/event-stream")
    updates = []
    for block in response.text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line)
        if "data" in fields and fields.get("event", "message") == kind:
            updates.append(json.loads(fields["data"]))
    return updates


def outcome(client: TestClient, image: bytes | None = None, **options: Any) -> dict[str, Any]:
    response = client.post("/api/readings", params=options, content=image)
    assert response.status_code == 202, response.text
    return events(client, response.json()["job"])[-1]


def reading(client: TestClient, image: bytes | None = None, **options: Any) -> dict[str, Any]:
    last = outcome(client, image, **options)
    assert last["state"] == "done", last
    return client.get(f"/api/readings/{last['reading']}").json()


# --- reading ------------------------------------------------------------------------------------


def test_an_image_is_read_as_the_library_reads_it(client: TestClient, bank: Bank, vlm: PatchVLM) -> None:
    image = picture(3)
    options = {
        "layers": "0,2",
        "bank_layers": "1,2",
        "lens": "latent,embedding",
        "top_k": 3,
        "corpus": "first",
    }
    data = reading(client, png(image), name="cat.png", unique="word", **options)
    language = vlm.language
    lenses = [
        LatentLens(bank, (1, 2), Where(corpus="first"), "word"),
        EmbeddingLens(language.embedding, language.tokenizer, "word"),
    ]
    (expected,) = read_images(vlm, [image], lenses, [0, 2], top_k=3)
    expected_data = json.loads(json.dumps(page_data(expected)))
    assert data | {"source": ""} == expected_data | {"source": ""}
    assert data["source"] == "cat.png"


def test_the_text_around_an_image_is_read_once(client: TestClient, bank: Bank, vlm: PatchVLM) -> None:
    image = picture(31)
    options = {"layers": "1", "tokens": "all", "answer": 2}
    data = reading(client, png(image), **options)
    expected = read_image(bank, vlm, image, [1], tokens="all", answer=2)
    assert data["around"] == page_data(expected)["around"]
    calls = len(vlm.calls)
    reading(client, png(image), word="dog", **options)  # another filter needs no forward pass
    assert len(vlm.calls) == calls


def test_corpora_that_are_not_complete_are_not_offered(client: TestClient, bank: Bank) -> None:
    offered = client.get("/api/about").json()["corpora"]
    assert offered == sorted(bank.corpora) != []
    bank.record(replace(bank.corpora[offered[0]], name="unfinished", complete=False))
    try:
        assert client.get("/api/about").json()["corpora"] == offered
    finally:
        bank.drop_corpus("unfinished")


def test_a_shipped_picture_and_a_sentence(client: TestClient, bank: Bank, tiny: LanguageModel) -> None:
    assert client.get("/api/about").json()["pictures"] == ["a cat"]
    data = reading(client, picture="a cat", layers="1")
    assert (data["source"], data["size"]) == ("a cat", [30, 20])
    sentence = "The dog chased a cat."
    data = reading(client, sentence=sentence, layers="1,2", bank_layers="all")
    expected = read_text(bank, tiny, sentence, [1, 2], bank_layers="all")
    assert data == json.loads(page_json(expected))


def test_the_page_offers_a_correction_where_the_model_is_calibrated(
    client: TestClient, tmp_path: Path, tiny: LanguageModel, vlm: PatchVLM
) -> None:
    assert client.get("/api/about").json()["corrections"] == []
    assert "is not calibrated" in outcome(client, png(picture()), layers="1", correct="both")["error"]
    with fill("calibrated", tmp_path, tiny, {"c": SENTENCES}, (1,)) as bank:
        calibrate(bank, vlm, [picture(seed) for seed in range(100, 121)], [1])
        correction = Correction(load_calibration(bank, vlm), "both")
        service = ReadingService(bank, vlm, correct="hubs")
        with TestClient(Guard(create_app(service)), base_url=HOME) as other:
            about = other.get("/api/about").json()
            assert (about["corrections"], about["correct"]) == (["hubs", "mean", "both"], "hubs")
            given = {"layers": "1", "bank_layers": "all"}
            found = {
                mode: reading(other, png(picture()), **given, correct=mode) for mode in ("", "none", "both")
            }
        lens = LatentLens(bank, "all", correction=correction)
        (expected,) = read_images(vlm, [picture()], [lens], [1])
    assert [data["correction"] for data in found.values()] == ["hubs", "", "both"]
    assert found["both"]["found"] == json.loads(page_json(expected))["found"]


def test_a_centred_bank_is_read_piece_by_piece_as_in_one(
    tmp_path: Path, tiny: LanguageModel, vlm: PatchVLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentbank.query.reading.pieces.PIECE", 4)
    with fill("centred", tmp_path, tiny, {"c": SENTENCES}, metric="centred") as bank:
        (expected,) = read_images(vlm, [picture()], [LatentLens(bank)], [1, 2])
        with TestClient(Guard(create_app(ReadingService(bank, vlm))), base_url=HOME) as client:
            data = reading(client, png(picture()), layers="1,2")
    expected_data = json.loads(page_json(expected))
    assert data["found"] == expected_data["found"]
    assert (data["metric"], data["contexts"]) == ("centred", expected_data["contexts"])


def test_another_filter_needs_no_other_forward_pass_and_the_same_ask_no_other_job(
    client: TestClient, vlm: PatchVLM
) -> None:
    image = png(picture(4))
    data = reading(client, image, layers="0")
    filtered = reading(client, image, layers="0", word="DOG", bank_layers="all")
    assert vlm.calls == [1]
    words = {context[0] for context in filtered["contexts"]}
    assert words == {"dog"}
    first, again = outcome(client, image, layers="0"), outcome(client, image, layers="0")
    assert first["reading"] == again["reading"]
    assert client.get(f"/api/readings/{first['reading']}").json() == data
    assert vlm.calls == [1]


def test_each_layer_is_sent_as_soon_as_it_is_read(
    bank: Bank, vlm: PatchVLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second layer waits until the first one's neighbors have reached the client."""
    first_is_there = block_second_layer(bank, monkeypatch)
    image = picture(8)
    options = {"layers": "1,2", "lens": "latent,embedding"}
    parts = []
    # A real socket: the test client would wait for the end of an answer.
    with (
        serving(Guard(create_app(ReadingService(bank, vlm)))) as address,
        httpx.Client(base_url=address, timeout=60, limits=NO_KEPT) as client,
    ):
        job = client.post("api/readings", params=options, content=png(image)).json()["job"]
        with client.stream("GET", f"api/jobs/{job}/events") as told:
            lines = told.iter_lines()
            for line in lines:
                if line == "event: part":
                    parts.append(json.loads(next(lines).removeprefix("data: ")))
                    first_is_there.set()
    assert parts
    assert [part["number"] for part in parts] == list(range(len(parts)))
    lenses = [LatentLens(bank), EmbeddingLens(vlm.language.embedding, vlm.language.tokenizer)]
    for layer, part in zip((1, 2), parts, strict=False):
        (expected,) = read_images(vlm, [image], lenses, [layer])
        expected_data = json.loads(json.dumps(page_data(expected))) | {"source": ""}
        assert part["layers"] == [1, 2]
        assert part["reading"] | {"source": ""} == expected_data | ({"image": None} if part["number"] else {})


def test_a_reading_that_is_cancelled_between_layers_ends_there(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = cast("Any", client).service
    read: list[int] = []

    def cancelling(*given: Any, **more: Any) -> Any:
        for reading_of_layer in read_layers(*given, **more):
            read.extend(reading_of_layer.layers)
            (job,) = service._jobs.values()
            assert client.delete(f"/api/jobs/{job.id}").status_code == 204
            yield reading_of_layer

    monkeypatch.setattr("latentbank.query.web.service.read_layers", cancelling)
    assert outcome(client, picture="a cat", layers="0,1,2")["state"] == "cancelled"
    assert read == [0]


def test_after_a_corpus_was_replaced_it_is_read_anew(
    tmp_path: Path, tiny: LanguageModel, vlm: PatchVLM
) -> None:
    bank = fill("small", tmp_path, tiny, {"c": ["A red apple lies on the wooden table."]})
    with bank, TestClient(Guard(create_app(ReadingService(bank, vlm))), base_url=HOME) as client:
        options = {"sentence": "The dog chased a cat.", "layers": "1"}
        before, first = reading(client, **options), outcome(client, **options)
        assert outcome(client, **options)["reading"] == first["reading"]
        changed = corpus_from_sentences("c", SENTENCES[2:])
        plan = plan_for(bank, changed, tiny, tmp_path / "plan", replace=True)
        store_plan(bank, plan, tiny, replace=True)
        after = reading(client, **options)
    assert set(before["captions"]) == {"A red apple lies on the wooden table."}
    assert set(after["captions"]) <= set(SENTENCES[2:])


def test_what_another_version_of_the_bank_says_is_read_anew(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"sentence": "The dog chased a cat.", "layers": "1"}
    first = outcome(client, **options)["reading"]
    assert outcome(client, **options)["reading"] == first
    monkeypatch.setattr(Bank, "version", 2)
    assert outcome(client, **options)["reading"] != first


# --- several models -----------------------------------------------------------------------------


def test_another_model_is_loaded_when_it_is_chosen_and_stays(bank: Bank, tiny: LanguageModel) -> None:
    vlm, loud = PatchVLM(tiny), PatchVLM(tiny, gain=9.0)
    loaded: list[str] = []

    def load(say: Callable[[str], None]) -> PatchVLM:
        say("unpacking its weights")
        loaded.append("loud")
        return loud

    app = create_app(ReadingService(bank, vlm, {"loud": load}, "quiet"), {"a cat": png(picture(1))})
    with TestClient(Guard(app), base_url=HOME) as client:
        assert client.get("/api/about").json()["models"] == ["quiet", "loud"]
        own = reading(client, picture="a cat", layers="1")
        assert own == reading(client, picture="a cat", layers="1", model="quiet")
        assert loaded == []
        (expected,) = read_images(loud, [picture(1)], [LatentLens(bank)], [1])
        data = reading(client, picture="a cat", layers="1", model="loud")
        assert data["norms"] == json.loads(page_json(expected))["norms"] != own["norms"]
        reading(client, picture="a cat", layers="2", model="loud")
        assert loaded == ["loud"]
        code, message = refused(client, picture="a cat", model="crystal")
        assert (code, message) == (
            400,
            "There is no model 'crystal' on this page; choose one of quiet, loud.",
        )


def test_a_model_with_another_llm_is_refused_and_loaded_once(
    bank: Bank, vlm: PatchVLM, tmp_path: Path
) -> None:
    other = PatchVLM(load_language_model(str(save_tiny(tmp_path / "other", seed=7))))
    loads: list[int] = []
    with TestClient(
        Guard(
            create_app(
                ReadingService(bank, vlm, {"other": lambda say: loads.append(1) or other}),
                {"a": png(picture())},
            )
        ),
        base_url=HOME,
    ) as client:
        for _ in range(2):
            last = outcome(client, picture="a", model="other")
            assert last["state"] == "failed"
            assert "choose that bank's model or another bank" in last["error"]
    assert loads == [1]


def test_a_model_that_could_not_be_loaded_is_tried_again(bank: Bank, vlm: PatchVLM) -> None:
    tries: list[int] = []

    def load(say: Callable[[str], None]) -> PatchVLM:
        tries.append(1)
        if len(tries) == 1:
            raise ModelError("Its weights are missing; download them.")
        return vlm

    app = create_app(ReadingService(bank, vlm, {"other": load}), {"a": png(picture())})
    with TestClient(Guard(app), base_url=HOME) as client:
        assert (
            outcome(client, picture="a", model="other")["error"] == "Its weights are missing; download them."
        )
        assert outcome(client, picture="a", model="other")["state"] == "done"


# --- how far it is ------------------------------------------------------------------------------


def test_progress_and_errors_are_reported(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentbank.query.reading.pieces.PIECE", 1)
    said: list[str] = []
    update = Job.update
    monkeypatch.setattr(
        Job, "update", lambda job, **new: (said.append(new.get("what", "")), update(job, **new))
    )
    job = client.post("/api/readings", params={"picture": "a cat", "layers": "0,1,2"}).json()["job"]
    updates = events(client, job)
    assert updates[-1]["state"] == "done"
    assert [what for what in said if what] == [
        "running the model on the image",
        *(f"visual layer {layer} is read, {layer + 1} of 3" for layer in range(3)),
    ]
    # Which updates an event tells of depends on when the server looks; the count never goes back.
    assert [event["done"] for event in updates] == sorted(event["done"] for event in updates)
    assert outcome(client, picture="a cat", layers="77") == {
        **updates[-1], "state": "failed", "reading": "", "what": "running the model on the image",
        "done": 0, "total": 0, "error": outcome(client, picture="a cat", layers="77")["error"],
    }  # fmt: skip
    assert "no layer 77" in outcome(client, picture="a cat", layers="77")["error"]
    assert "no layer 9" in outcome(client, picture="a cat", bank_layers="9")["error"]


def test_events_tell_what_a_job_does_until_it_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentbank.query.web.server._POLL", 0.001)

    async def follow() -> list[bytes]:
        job = Job("1")
        stream = events_of(job)
        told = [await anext(stream)]
        job.update(state="running", what="reading", total=2)
        told.append(await anext(stream))
        job.update(done=1, parts=("a layer",))
        told += [await anext(stream), await anext(stream)]
        job.update(state="done", done=2)
        return told + [event async for event in stream]

    with ThreadPoolExecutor(1) as pool:  # where a browser was tested before, this thread has a loop already
        waiting, running, part, half, done = pool.submit(lambda: asyncio.run(follow())).result()
    assert part == b"event: part\ndata: a layer\n\n"
    states = [json.loads(event.removeprefix(b"data: ")) for event in (waiting, running, half, done)]
    assert [(state["state"], state["what"], state["done"]) for state in states] == [
        ("waiting", "waiting for its turn", 0),
        ("running", "reading", 0),
        ("running", "reading", 1),
        ("done", "reading", 2),
    ]


def test_a_job_can_be_cancelled_while_it_runs_and_while_it_waits(
    client: TestClient, vlm: PatchVLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, proceed = threading.Event(), threading.Event()
    original = vlm.visual_tokens

    def slow(*given: Any, **more: Any) -> Any:
        started.set()
        assert proceed.wait(60)
        return original(*given, **more)

    monkeypatch.setattr(vlm, "visual_tokens", slow)
    ask: Callable[[str], str] = lambda layers: client.post(  # noqa: E731
        "/api/readings", params={"picture": "a cat", "layers": layers}
    ).json()["job"]
    running, waiting = ask("0"), ask("1")
    assert started.wait(60)
    for job in (running, waiting):
        assert client.delete(f"/api/jobs/{job}").status_code == 204
    proceed.set()
    assert [events(client, job)[-1]["state"] for job in (running, waiting)] == ["cancelled", "cancelled"]
    assert vlm.calls == [1]
    assert outcome(client, picture="a cat", layers="2")["state"] == "done"


def test_an_unexpected_failure_is_reported_without_details(
    client: TestClient, vlm: PatchVLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(vlm, "visual_tokens", broken)
    last = outcome(client, picture="a cat")
    assert last["state"] == "failed"
    assert "RuntimeError" in last["error"]
    assert "secret" not in last["error"]


def test_twenty_readers_at_once_all_get_theirs(client: TestClient) -> None:
    def read_it(number: int) -> tuple[int, list[int]]:
        data = reading(client, png(picture(number, (30 + number, 20))), layers="1")
        return number, data["size"]

    with ThreadPoolExecutor(20) as pool:
        found = dict(pool.map(read_it, range(20)))
    assert found == {number: [30 + number, 20] for number in range(20)}


def test_the_page_of_a_reading_can_be_kept(client: TestClient) -> None:
    key = outcome(client, picture="a cat")["reading"]
    response = client.get(f"/api/readings/{key}/page")
    assert response.headers["content-disposition"] == 'attachment; filename="reading.html"'
    assert '<script type="application/json" id="reading">' in response.text


def test_what_was_sent_once_is_read_again_without_sending_it(client: TestClient) -> None:
    sent = client.post("/api/readings", params={"name": "mine.png"}, content=png(picture())).json()
    again = client.post("/api/readings", params={"upload": sent["upload"], "top_k": 2})
    assert again.status_code == 202
    assert again.json()["upload"] == sent["upload"]
    missing = client.post("/api/readings", params={"upload": "0" * 32})
    assert missing.status_code == 404
    assert missing.json()["error"] == "This image is not kept here any more; choose its file again."


# --- what is refused ----------------------------------------------------------------------------


def refused(client: TestClient, content: bytes | None = None, **options: Any) -> tuple[int, str]:
    response = client.post("/api/readings", params=options, content=content)
    return response.status_code, response.json()["error"]


def test_uploads_are_limited_in_bytes_and_pixels(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "LARGEST_UPLOAD", 1_000_000)
    code, message = refused(client, b"\x89PNG" + bytes(1_000_000))
    assert (code, message) == (413, "The image is larger than 1 MB; make it smaller.")

    def endless() -> Iterator[bytes]:
        for _ in range(1000):
            yield bytes(100_000)

    assert client.post("/api/readings", content=endless()).status_code == 413

    header = bytearray(png(Image.new("1", (8, 8))))
    header[16:24] = (10_000).to_bytes(4, "big") + (5_000).to_bytes(4, "big")  # 50 megapixels
    header[29:33] = zlib.crc32(bytes(header[12:29])).to_bytes(4, "big")
    code, message = refused(client, bytes(header))
    assert (code, message) == (400, "The image has more than 40 million pixels; make it smaller.")


def test_uploads_that_are_not_images_are_refused_at_once(client: TestClient) -> None:
    for body in (b"", b"no image", b"<svg onload=alert(1)>", png(picture())[:40]):
        code, message = refused(client, body)
        assert code == 400
        assert "not an image in a format that is read" in message
    code, message = refused(client, png(picture(9, (64, 64)))[:2000])
    assert (code, "cannot be read to its end" in message) == (400, True)


def test_wrong_requests_get_one_sentence(client: TestClient) -> None:
    for options, message in (
        ({"picture": "../../etc/passwd"}, "no such picture"),
        ({"picture": "a cat", "lens": "crystal"}, "There is no lens 'crystal'"),
        ({"picture": "a cat", "layers": "one"}, "is not a list of layers"),
        ({"picture": "a cat", "top_k": 0}, "top_k"),
        ({"picture": "a cat", "unique": "day"}, "unique"),
        ({"sentence": "x" * 2001}, "sentence"),
        ({"picture": "a cat", "tokens": "some"}, "tokens"),
        ({"picture": "a cat", "answer": 1000}, "answer"),
    ):
        code, answer = refused(client, **options)
        assert 400 <= code < 500
        assert message in answer
        assert answer.endswith(".")


def test_too_many_waiting_jobs_are_refused(
    client: TestClient, vlm: PatchVLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentbank.query.web.service.WAITING", 2)
    proceed, original = threading.Event(), vlm.visual_tokens
    monkeypatch.setattr(vlm, "visual_tokens", lambda *a, **k: (proceed.wait(60), original(*a, **k))[1])
    try:
        for layer in range(3):
            outcome_of = client.post("/api/readings", params={"picture": "a cat", "layers": str(layer)})
            assert outcome_of.status_code == 202
        assert refused(client, picture="a cat", layers="3")[1].startswith("Too many readings are waiting")
    finally:
        proceed.set()


def test_no_path_reaches_the_disk(client: TestClient) -> None:
    for path in (
        "/static/..%2f..%2f..%2fpyproject.toml", "/static/%2e%2e/server.py", "/static//etc/passwd",
        "/static/server.py", "/api/pictures/..%2f..%2fphoto.jpg", "/api/readings/..%2f..%2fx", "/docs", "/openapi.json",
    ):  # fmt: skip
        assert client.get(path).status_code == 404, path
    assert client.get("/static/view.js").headers["content-type"].startswith("text/javascript")


def test_another_models_bank_is_refused(bank: Bank, tmp_path: Path) -> None:
    other = PatchVLM(load_language_model(str(save_tiny(tmp_path / "other", seed=7))))
    with pytest.raises(BankMismatch):
        ReadingService(bank, other)


def test_images_are_searched_with_as_many_candidates_as_visual_tokens_need(
    bank: Bank, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates = record_candidates(bank, monkeypatch)
    outcome(client, png(picture(7)))
    assert set(candidates) == {bank.settings.ef_visual}


def test_with_an_llm_alone_the_page_reads_sentences(bank: Bank, tiny: LanguageModel) -> None:
    app = Guard(create_app(ReadingService(bank, tiny), {"a cat": png(picture(1))}))
    with TestClient(app, base_url=HOME) as client:
        about = client.get("/api/about").json()
        assert (about["images"], about["pictures"]) == (False, [])
        last = outcome(client, sentence=SENTENCES[0])
        reading = client.get(f"/api/readings/{last['reading']}").json()
        assert reading == page_data(read_text(bank, tiny, SENTENCES[0]))
        for given in ({"picture": "a cat"}, {"upload": "x"}, {"name": "a.png"}, {}):
            assert refused(client, **given) == (
                400,
                "This page reads sentences alone: it has no vision-language model. Write a sentence.",
            )


def test_an_llm_that_is_not_the_banks_is_refused(bank: Bank, tmp_path: Path) -> None:
    with pytest.raises(BankMismatch):
        ReadingService(bank, load_language_model(str(save_tiny(tmp_path / "other", seed=7))))


def test_the_picture_that_the_page_opens_with_is_read_as_it_starts(bank: Bank, vlm: PatchVLM) -> None:
    service = ReadingService(bank, vlm)
    with TestClient(Guard(create_app(service, {"a": png(picture(31))}, "a")), base_url=HOME) as client:
        assert client.get("/api/about").json()["start"] == "a"
        job = next(iter(service._jobs.values()))
        assert events(client, job.id)[-1]["state"] == "done"
        # What the page asks for then needs no work: its job is finished at once.
        sent = {"picture": "a", "bank_layers": "mid", "top_k": "5", "lens": "latent"}
        asked = client.post("/api/readings", params=sent).json()["job"]
        assert service.job(asked).reading == job.reading != ""  # type: ignore[union-attr]
    with TestClient(Guard(create_app(None, {"a": b""}, "a")), base_url=HOME) as client:
        assert client.get("/api/about").json()["start"] == ""


def test_without_a_model_the_page_is_there_and_reads_nothing() -> None:
    with TestClient(Guard(create_app(None, {"a cat": b""})), base_url=HOME) as client:
        assert client.get("/").status_code == 200
        about = client.get("/api/about").json()
        assert (about["models"], about["pictures"]) == ([], [])
        assert refused(client, sentence="Hello")[0] == 409


# --- what is hostile ----------------------------------------------------------------------------


def test_hostile_captions_and_file_names_stay_text(
    tmp_path: Path, tiny: LanguageModel, vlm: PatchVLM
) -> None:
    bank = fill("hostile", tmp_path, tiny, {})
    plan = plan_for(bank, corpus_from_sentences("c", [HOSTILE] * 2), tiny, tmp_path / "plan")
    store_plan(bank, plan, tiny)
    name = f"../../{HOSTILE}\x00\n.png"
    with bank, TestClient(Guard(create_app(ReadingService(bank, vlm))), base_url=HOME) as client:
        last = outcome(client, png(picture()), name=name)
        response = client.get(f"/api/readings/{last['reading']}")
        assert response.headers["content-type"] == "application/json"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "<" not in response.text
        assert HOSTILE in response.json()["captions"]
        assert response.json()["source"].startswith("../../</script>")
        assert "\n" not in response.json()["source"]
        assert "<img" not in client.get(f"/api/readings/{last['reading']}/page").text
    assert not list(tmp_path.rglob("*.png"))


def test_every_answer_carries_the_policy(client: TestClient) -> None:
    for path in ("/", "/static/app.js", "/api/about", "/nothing"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    page = client.get("/").text
    assert "<script>" not in page
    assert "style=" not in page
    assert "http" not in page
    total = len(page) + sum(len(client.get(f"/static/{path.name}").content) for path in PAGE.iterdir())
    assert total < 300_000


def test_files_are_compressed_for_those_who_take_it(client: TestClient) -> None:
    plain = (PAGE / "view.js").read_bytes()
    for accepted, encoding in (("br, gzip;q=0.5", "gzip"), ("gzip;q=0.0", None), ("br", None)):
        found = client.get("/static/view.js", headers={"accept-encoding": accepted})
        assert found.headers.get("content-encoding") == encoding
        assert found.headers["vary"] == "accept-encoding"
        assert found.content == plain
        assert (int(found.headers["content-length"]) < len(plain) / 2) == (encoding == "gzip")


def test_a_foreign_name_or_site_gets_nothing(client: TestClient) -> None:
    assert client.get("/api/about", headers={"host": "evil.example:8265"}).status_code == 421
    assert client.get("/api/about", headers={"host": "localhost:8265"}).status_code == 200
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9999"):
        code = client.post(
            "/api/readings", params={"picture": "a cat"}, headers={"origin": origin}
        ).status_code
        assert code == 403
    assert (
        client.post("/api/readings", params={"picture": "a cat"}, headers={"origin": HOME}).status_code == 202
    )
    # A proxy has put its own name for the server into Host.
    lab = {"origin": "https://lab.example", "x-forwarded-host": "lab.example"}
    assert client.delete("/api/jobs/none", headers=lab).status_code == 404
    assert (
        client.delete("/api/jobs/none", headers=lab | {"origin": "https://evil.example"}).status_code == 403
    )
    assert client.get("/api/about", headers=lab | {"host": "evil.example"}).status_code == 421


# --- the token ----------------------------------------------------------------------------------

TOKEN = "correct-horse-battery"


@pytest.fixture
def shared() -> Iterator[TestClient]:
    app = Guard(create_app(None), TOKEN)
    with TestClient(app, base_url="http://lab.example:8265", follow_redirects=False) as made:
        yield made


def test_nothing_is_answered_without_the_token(shared: TestClient) -> None:
    for path in ("/", "/api/about", "/api/readings/x", "/nothing"):
        response = shared.get(path)
        assert response.status_code == 401
        assert TOKEN not in response.text
    assert 'type="password"' in shared.get("/").text
    assert shared.get("/static/style.css").status_code == 200
    for value in (TOKEN[:-1], "", TOKEN.upper()):
        assert shared.get("/api/about", headers={"authorization": f"Bearer {value}"}).status_code == 401
        assert shared.get("/api/about", headers={"cookie": f"latentbank={value}"}).status_code == 401
        assert shared.post("/", data={"token": value}).status_code == 401
    assert shared.post("/", data={"token": TOKEN, "more": "x" * 5000}).status_code == 401


def test_the_token_opens_the_page_once_and_for_all(shared: TestClient) -> None:
    assert shared.get("/api/about", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    response = shared.post("/?picture=a+cat", data={"token": TOKEN})
    assert (response.status_code, response.headers["location"]) == (303, "?picture=a+cat")
    cookie = response.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert urllib.parse.quote(TOKEN) not in cookie
    assert shared.get("/api/about").status_code == 200  # the client has kept the cookie


# --- filters ------------------------------------------------------------------------------------


def test_filters_of_the_page() -> None:
    assert where_of("", " ", "") is None
    assert where_of("c", "", "") == Where(corpus="c")
    assert where_of("", "Dog", "") == Where(word=("Dog", "dog", "DOG"))
    assert where_of("c", "", "red dog") == All((Where(corpus="c"), Where(caption_contains="red dog")))
