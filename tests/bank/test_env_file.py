"""What a `.env` in the folder where somebody stands may decide: nothing about where a key from elsewhere goes."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from latentbank.bank.opening import list_banks
from latentbank.bank.settings import Settings, load_settings
from latentbank.errors import LatentBankError

KEY, OTHER = "the-teams-key", "the-projects-key"
TEAM, STRANGER = "https://team.example:6333", "https://stranger.example:6333"
CAUGHT: list[str] = []


class _Stranger(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        CAUGHT.append(str(self.headers) + self.path)
        self.send_error(403)

    do_POST = do_PUT = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def stranger() -> Iterator[str]:
    """The URL of a server that notes what it is sent, in CAUGHT."""
    server = HTTPServer(("127.0.0.1", 0), _Stranger)
    CAUGHT.clear()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def settings(
    monkeypatch: pytest.MonkeyPatch, file: dict[str, str], environment: dict[str, str], **given: str
) -> Settings:
    Path(".env").write_text("".join(f"LATENTBANK_{name}={value}\n" for name, value in file.items()))
    for name, value in environment.items():
        monkeypatch.setenv(f"LATENTBANK_{name}", value)
    return load_settings(**given)


@pytest.mark.parametrize(
    ("file", "environment", "given", "named"),
    [
        ({"URL": STRANGER}, {"API_KEY": KEY}, {}, "LATENTBANK_URL"),
        ({"URL": STRANGER}, {}, {"api_key": KEY}, "LATENTBANK_URL"),
        ({"URL": STRANGER}, {"API_KEY_FILE": "~/key"}, {}, "LATENTBANK_URL"),
        ({"URL": STRANGER}, {}, {"api_key_file": "~/key"}, "LATENTBANK_URL"),
        # The key of the environment comes before the file's.
        ({"URL": STRANGER, "API_KEY": OTHER}, {"API_KEY": KEY}, {}, "LATENTBANK_URL"),
        ({"URL": STRANGER, "API_KEY": OTHER}, {"API_KEY_FILE": "~/key"}, {}, "LATENTBANK_URL"),
        ({"TLS_CA": "ca.pem"}, {"API_KEY": KEY, "URL": TEAM}, {}, "LATENTBANK_TLS_CA"),
        ({"GRPC_PORT": "6666"}, {"API_KEY": KEY}, {"url": TEAM}, "LATENTBANK_GRPC_PORT"),
        ({"URL": TEAM, "TLS_CA": "ca.pem"}, {"API_KEY": KEY, "URL": TEAM}, {}, "LATENTBANK_TLS_CA"),
        (
            {"URL": STRANGER, "GRPC_PORT": "1", "TLS_CA": "ca.pem"},
            {"API_KEY": KEY},
            {},
            "LATENTBANK_URL, LATENTBANK_GRPC_PORT, LATENTBANK_TLS_CA",
        ),
    ],
)
def test_it_does_not_decide_where_another_key_goes(
    monkeypatch: pytest.MonkeyPatch,
    file: dict[str, str],
    environment: dict[str, str],
    given: dict[str, str],
    named: str,
) -> None:
    with pytest.raises(
        LatentBankError, match=rf"^The file \.env .* sets {named}, but the key is not"
    ) as caught:
        settings(monkeypatch, file, environment, **given)
    assert KEY not in str(caught.value)
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize(
    ("file", "environment", "given", "url", "key"),
    [
        ({"URL": TEAM, "API_KEY": OTHER, "TLS_CA": "ca.pem"}, {}, {}, TEAM, OTHER),
        ({}, {"URL": TEAM, "API_KEY": KEY}, {}, TEAM, KEY),
        ({"URL": STRANGER}, {"URL": TEAM, "API_KEY": KEY}, {}, TEAM, KEY),
        ({"URL": STRANGER, "GRPC_PORT": "1", "TLS_CA": "x"}, {"API_KEY": KEY}, {"url": TEAM}, TEAM, KEY),
        ({"URL": STRANGER, "API_KEY": OTHER}, {"URL": TEAM, "API_KEY": KEY}, {}, TEAM, KEY),
        ({"API_KEY": OTHER}, {"URL": TEAM}, {}, TEAM, OTHER),
        ({"API_KEY": OTHER}, {}, {"url": TEAM}, TEAM, OTHER),
        ({"URL": TEAM, "API_KEY": OTHER}, {"URL": f"{TEAM}/"}, {}, TEAM, OTHER),
        ({"URL": STRANGER}, {}, {}, STRANGER, None),
        ({"URL": STRANGER}, {"API_KEY": KEY}, {"url": ""}, "", KEY),  # embedded: no key is sent
    ],
)
def test_a_key_and_a_url_from_one_place_go_together(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    file: dict[str, str],
    environment: dict[str, str],
    given: dict[str, str],
    url: str,
    key: str | None,
) -> None:
    found = settings(monkeypatch, file, environment, **given)
    assert (found.url, found.key()) == (url, key)
    if url == TEAM and file.get("URL") == STRANGER:
        assert (found.tls_ca, found.grpc_port) == (None, 6334)
    assert not caplog.messages


def test_its_key_is_not_sent_to_another_url(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = settings(monkeypatch, {"URL": TEAM, "API_KEY": OTHER}, {}, url="http://localhost:6333")
    assert (found.url, found.key()) == ("http://localhost:6333", None)
    assert caplog.messages == [
        "The key in .env is for the URL in .env, and is not sent to http://localhost:6333."
    ]


def test_no_secret_of_the_environment_is_part_of_its_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", KEY)
    for file in (
        {"URL": "http://127.0.0.1:9/${SOME_TOKEN}"},
        {"URL": "http://127.0.0.1:9", "BANK": "x${SOME_TOKEN}"},
        {"API_KEY": "${SOME_TOKEN}"},
        {"DATA_DIR": "${UNKNOWN:-x}"},
    ):
        with pytest.raises(LatentBankError, match=r"in \.env takes its value from other variables") as caught:
            settings(monkeypatch, file, {})
        assert KEY not in str(caught.value)
    assert settings(monkeypatch, {"URL": TEAM, "API_KEY": "a$b"}, {}).key() == "a$b"


def test_its_key_file_lies_beside_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "cloned"
    (folder / "secrets").mkdir(parents=True)
    (folder / "secrets" / "key").write_text(OTHER)
    (tmp_path / "token").write_text(KEY)
    (folder / "link").symlink_to(tmp_path / "token")
    monkeypatch.chdir(folder)
    for name in ("~/token", "../token", str(tmp_path / "token"), "link", "secrets/../../token"):
        with pytest.raises(LatentBankError, match=r"API_KEY_FILE in \.env names a file outside"):
            settings(monkeypatch, {"URL": STRANGER, "API_KEY_FILE": name}, {})
    assert settings(monkeypatch, {"URL": TEAM, "API_KEY_FILE": "secrets/key"}, {}).key() == OTHER
    # Where the environment names a file of its own, that of .env does not matter.
    found = settings(monkeypatch, {"API_KEY_FILE": "../token"}, {"API_KEY_FILE": "~/token"}, url=TEAM)
    assert found.key() == KEY


def test_settings_of_another_process_stay_what_they_were(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sent = pickle.dumps(settings(monkeypatch, {}, {"URL": TEAM, "API_KEY": KEY}))
    (tmp_path / ".env").write_text(f"LATENTBANK_URL={STRANGER}\nLATENTBANK_TLS_CA=ca.pem\n")
    monkeypatch.delenv("LATENTBANK_URL")
    assert (pickle.loads(sent).url, pickle.loads(sent).tls_ca) == (TEAM, None)


def test_proxies_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text(
        f"LATENTBANK_URL={STRANGER}\nHTTPS_PROXY=http://stranger.example\nSSL_CERT_FILE=ca.pem\n"
    )
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    before = dict(os.environ)
    load_settings()
    assert dict(os.environ) == before


def test_a_strangers_server_gets_no_key(monkeypatch: pytest.MonkeyPatch, stranger: str) -> None:
    monkeypatch.setenv("LATENTBANK_API_KEY", KEY)
    Path(".env").write_text(f"LATENTBANK_URL={stranger}\n")
    with pytest.raises(LatentBankError, match="the key is not from there"):
        list_banks()
    assert CAUGHT == []
    with pytest.raises(LatentBankError):  # its own key it may have
        list_banks(load_settings(url=stranger, retries=0))
    assert any(KEY in heard for heard in CAUGHT)
