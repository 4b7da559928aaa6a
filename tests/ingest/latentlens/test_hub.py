"""Caches downloaded from a hub, over a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from latentbank.errors import CorpusError, LatentBankError, LayerNotFound
from latentbank.ingest.latentlens.hub import fetch_cache
from tests.hub import HubDouble, Stored, serving, use

REPOSITORY = "lab/contextual_embeddings"
FILES = {f"layer_{layer}/embeddings_cache.pt": f"layer {layer}".encode() for layer in (1, 3)} | {
    "README.md": b"words"
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    with serving() as hub:
        use(hub, tmp_path / "hf", monkeypatch, token=None)
        for name, files in ((REPOSITORY, FILES), ("lab/words", {"README.md": b"words"})):
            hub.repositories["models", name] = Stored()
            hub.repositories["models", name].commit(files)
        yield hub


def test_only_requested_layers_are_fetched_and_each_once(hub: HubDouble) -> None:
    folder = fetch_cache(REPOSITORY, [3])
    assert (folder / "layer_3/embeddings_cache.pt").read_bytes() == b"layer 3"
    assert hub.files() == ["layer_3/embeddings_cache.pt"]
    assert fetch_cache(REPOSITORY) == folder
    assert hub.files() == ["layer_3/embeddings_cache.pt", "layer_1/embeddings_cache.pt"]


def test_offline_the_cache_is_used(hub: HubDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch_cache(f"{REPOSITORY}@{hub.repositories['models', REPOSITORY].commits[0][0]}", [3])
    hub.forget()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert fetch_cache(f"{REPOSITORY}@{folder.name}", [3]) == folder
    with pytest.raises(LayerNotFound, match="has no layer 1; it has 3"):
        fetch_cache(f"{REPOSITORY}@{folder.name}", [1])
    assert not hub.asked


def test_what_is_not_there_is_one_sentence(hub: HubDouble) -> None:
    with pytest.raises(
        LatentBankError, match=r"^There is no model repository lab/unknown on the hub, [^\n]*$"
    ):
        fetch_cache("lab/unknown")
    with pytest.raises(CorpusError, match="lab/words on the hub holds no cache of latentlens"):
        fetch_cache("lab/words")
    with pytest.raises(LayerNotFound, match="has no layer 2; it has 1, 3"):
        fetch_cache(REPOSITORY, [1, 2])
    with pytest.raises(LatentBankError, match=f"{REPOSITORY} has no revision 'v9'"):
        fetch_cache(f"{REPOSITORY}@v9")


def test_a_hub_that_is_not_reached(tmp_path: Path) -> None:
    with pytest.raises(LatentBankError, match="unset it"):
        fetch_cache("lab/another")  # the tests are offline


def test_a_folder_stays_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lab" / "cache").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert fetch_cache("lab/cache") == Path("lab/cache")
    assert fetch_cache("/not/there") == Path("/not/there")  # `cache_layers` reports that nothing is in it
