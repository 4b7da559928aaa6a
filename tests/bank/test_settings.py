"""Settings: their sources and precedence, and keys that are never shown."""

from __future__ import annotations

import logging
import pickle
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from latentbank.bank import opening
from latentbank.bank.settings import Settings, load_settings
from latentbank.bank.transfer.load import import_bank
from latentbank.errors import LatentBankError
from latentbank.places import data_folder, default_data_dir

SECRET = "hunter2-the-whole-key"


def test_nothing_given_is_an_embedded_bank() -> None:
    found = load_settings()
    assert found.url == ""
    assert found.key() is None
    assert found.data_dir == default_data_dir()
    assert (found.quantization, found.prefer_grpc, found.grpc_port) == ("int8", True, 6334)


def test_arguments_come_before_the_environment_before_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(
        "LATENTBANK_URL=http://file:1\nLATENTBANK_EF=11\nLATENTBANK_TIMEOUT=21\nOTHER=x\nLATENTBANK_NEWER=y\n"
    )
    monkeypatch.setenv("LATENTBANK_EF", "12")
    monkeypatch.setenv("latentbank_timeout", "22")
    monkeypatch.setenv("EF", "99")
    found = load_settings(timeout=23, ef=None)
    assert (found.url, found.ef, found.timeout) == ("http://file:1", 12, 23)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("LATENTBANK_BNAK", "LATENTBANK_BANK"),
        ("LATENTBANK_ULR", "LATENTBANK_URL"),
        ("latentbank_datadir", "LATENTBANK_DATA_DIR"),
        ("LATENTBANK_APIKEY", "LATENTBANK_API_KEY"),
        ("LATENTBANK_GRCP_PORT", "LATENTBANK_GRPC_PORT"),
        ("LATENTBANK_TOKNE", "LATENTBANK_TOKEN"),
    ],
)
def test_a_misspelt_variable_is_named_with_the_setting_that_is_meant(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, meant: str
) -> None:
    monkeypatch.setenv(name, SECRET)
    with pytest.raises(LatentBankError) as caught:
        load_settings()
    assert str(caught.value) == f"{name} is no setting; did you mean {meant}? Correct or remove it."
    monkeypatch.delenv(name)
    (tmp_path / ".env").write_text(f"{name}={SECRET}\n")
    with pytest.raises(
        LatentBankError, match=f"^{name} in .env is no setting; did you mean {meant}"
    ) as caught:
        load_settings(timeout=5)
    assert SECRET not in str(caught.value)


def test_other_variables_are_left_alone_and_unknown_ones_are_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in {
        "TOKEN": "t",
        "SERVICE_HOST": "10.0.0.1",
        "PORT": "tcp://10.0.0.1:8265",
        "PAGE_PORT": "tcp://10.0.0.1:8265",
        "PORT_8265_TCP_ADDR": "10.0.0.1",
        "GRPC_SERVICE_PORT_HTTP": "1",
    }.items():
        monkeypatch.setenv(f"LATENTBANK_{name}", value)
    load_settings()
    assert not caplog.messages
    monkeypatch.setenv("LATENTBANK_FROM_A_LATER_VERSION", SECRET)
    load_settings()
    load_settings()
    (message,) = caplog.messages
    assert "LATENTBANK_FROM_A_LATER_VERSION is no setting of this version" in message
    assert SECRET not in message


def test_empty_variables_are_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URL", "API_KEY", "API_KEY_FILE", "DATA_DIR", "TIMEOUT", "TLS_CA"):
        monkeypatch.setenv(f"LATENTBANK_{name}", "")
    assert load_settings() == load_settings(data_dir=default_data_dir())
    assert load_settings().key() is None


@pytest.mark.parametrize(
    "url", ["http://a", "https://a.b:443", "http://127.0.0.1:6333/", "http://[::1]:6333"]
)
def test_urls(url: str) -> None:
    assert load_settings(url=url).url == url.rstrip("/")
    assert load_settings(url=f"{url.rstrip('/')}/qdrant").url.endswith("/qdrant")


@pytest.mark.parametrize(
    ("given", "name", "reason"),
    [
        ({"url": "a.b:6333"}, "URL", "http://HOST:PORT"),
        ({"url": "ftp://a"}, "URL", "http://HOST:PORT"),
        ({"url": "http://"}, "URL", "http://HOST:PORT"),
        ({"url": "http://:6333"}, "URL", "http://HOST:PORT"),
        ({"url": "http://a:x"}, "URL", "[Pp]ort"),
        ({"url": "http://a:0"}, "URL", "port"),
        ({"url": "http://a:99999"}, "URL", "[Pp]ort"),
        ({"url": f"http://me:{SECRET}@a"}, "URL", "neither a user nor a key"),
        ({"url": f"http://a?api_key={SECRET}"}, "URL", "neither a user nor a key"),
        ({"timeout": "soon"}, "TIMEOUT", "valid integer"),
        ({"timeout": 0}, "TIMEOUT", "greater than 0"),
        ({"retries": -1}, "RETRIES", "greater than or equal to 0"),
        ({"quantization": "int4"}, "QUANTIZATION", "'int8', 'turbo' or 'none'"),
        ({"prefer_grpc": "perhaps"}, "PREFER_GRPC", "boolean"),
        ({"hnsw_m": 1}, "HNSW_M", "greater than or equal to 4"),
        ({"oversampling": 0.5}, "OVERSAMPLING", "greater than or equal to 1"),
    ],
)
@pytest.mark.parametrize("how", ["argument", "environment", "file"])
def test_a_wrong_value_names_its_setting(
    given: dict[str, Any], name: str, reason: str, how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if how == "argument":
        arguments = given
    else:
        arguments = {}
        ((field, value),) = given.items()
        if how == "environment":
            monkeypatch.setenv(f"LATENTBANK_{field.upper()}", str(value))
        else:
            (tmp_path / ".env").write_text(f"LATENTBANK_{field.upper()}={value}\n")
    with pytest.raises(LatentBankError, match=reason) as caught:
        load_settings(**arguments)
    message = str(caught.value)
    named = name.lower() if how == "argument" else f"LATENTBANK_{name}"  # as the user wrote it
    assert message.startswith(f"The setting {named} is wrong: ")
    assert message.endswith(".")
    assert "\n" not in message
    shown = "".join(traceback.format_exception(caught.value))
    assert SECRET not in shown


def test_a_key_of_the_wrong_type_is_not_repeated() -> None:
    with pytest.raises(LatentBankError, match=r"setting api_key is wrong: .*valid string") as caught:
        load_settings(api_key=[SECRET])
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_an_unknown_argument_is_an_error() -> None:
    with pytest.raises(LatentBankError, match="no setting ulr; there are url, api_key"):
        load_settings(ulr="http://a")


@pytest.mark.parametrize("broken", [b"LATENTBANK_URL=http://\xff\xfe\n", None], ids=["bytes", "folder"])
def test_an_unreadable_env_file(broken: bytes | None, tmp_path: Path) -> None:
    if broken is None:
        (tmp_path / ".env").mkdir()
        assert load_settings().url == ""
        return
    (tmp_path / ".env").write_bytes(broken)
    with pytest.raises(LatentBankError, match=r"The file \.env in the current folder cannot be read"):
        load_settings()


# -- the key ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["argument", "environment", "file"])
def test_the_key_is_never_shown(
    how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    given = {}
    if how == "argument":
        given["api_key"] = SECRET
    elif how == "environment":
        monkeypatch.setenv("LATENTBANK_API_KEY", SECRET)
    else:
        (tmp_path / ".env").write_text(f"LATENTBANK_API_KEY={SECRET}\n")
    found = load_settings(url="http://a", **given)
    assert found.key() == SECRET
    shown = [repr(found), str(found), str(found.model_dump()), found.model_dump_json(), caplog.text]
    assert not any(SECRET in text for text in shown)
    with pytest.raises(LatentBankError) as caught:
        load_settings(timeout="x", **given)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(Exception, match="frozen") as fixed:
        found.url = "http://b"
    assert SECRET not in str(fixed.value)


def test_the_key_may_be_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text(f"  {SECRET}\n")
    assert load_settings(api_key_file=tmp_path / "key").key() == SECRET
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LATENTBANK_API_KEY_FILE", "~/key")
    found = load_settings()
    assert found.key() == SECRET
    assert SECRET not in repr(found)
    assert load_settings(api_key="another").key() == "another"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read (No such file or directory); correct LATENTBANK_API_KEY_FILE"),
        (b"", "holds no valid key"),
        (b"\n \n", "holds no valid key"),
        (f"{SECRET}\nanother line".encode(), "holds no valid key"),
        (f"{SECRET}-schlüssel".encode(), "holds no valid key"),
        (b"\xff\xfe" + SECRET.encode(), "cannot be read (it is not text)"),
    ],
)
def test_a_key_file_without_a_key(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    with pytest.raises(LatentBankError) as caught:
        load_settings(api_key_file=tmp_path / "key").key()
    assert message in str(caught.value)
    assert str(tmp_path / "key") in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_key_that_cannot_be_sent() -> None:
    for wrong in ("", f"{SECRET}\nX-Other: 1", f"{SECRET}é"):
        with pytest.raises(LatentBankError, match="LATENTBANK_API_KEY holds no valid key") as caught:
            load_settings(api_key=wrong).key()
        assert SECRET not in str(caught.value)


def test_settings_can_be_sent_to_another_process() -> None:
    found = load_settings(url="http://a", api_key=SECRET)
    again = pickle.loads(pickle.dumps(found))
    assert again == found
    assert again.key() == SECRET


# -- the data folder -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, "home/.local/share/latentbank"),
        ("linux", {"XDG_DATA_HOME": "{home}/xdg"}, "home/xdg/latentbank"),
        ("linux", {"XDG_DATA_HOME": ""}, "home/.local/share/latentbank"),
        ("darwin", {"XDG_DATA_HOME": "{home}/xdg"}, "home/Library/Application Support/latentbank"),
        ("win32", {"LOCALAPPDATA": "{home}/local"}, "home/local/latentbank"),
    ],
)
def test_the_data_folder_follows_the_platform(
    platform: str,
    variables: dict[str, str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(home=home))
    assert default_data_dir() == tmp_path / expected
    assert load_settings().data_dir == tmp_path / expected


def test_a_chosen_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LATENTBANK_DATA_DIR", "~/banks")
    assert load_settings().data_dir == data_folder() == tmp_path / "banks"
    assert load_settings(data_dir=tmp_path / "b").data_dir == data_folder(tmp_path / "b") == tmp_path / "b"
    monkeypatch.delenv("LATENTBANK_DATA_DIR")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("LATENTBANK_DATA_DIR=~/others\n")
    assert load_settings().data_dir == data_folder() == tmp_path / "others"


def test_every_setting_is_explained() -> None:
    assert all(field.description for field in Settings.model_fields.values())


@pytest.mark.parametrize(
    "ask",
    [
        partial(opening.open_bank, "b"),
        partial(
            opening.create_bank, "b", model="m", fingerprint="f", layers=[1], num_layers=2, hidden_size=4
        ),
        opening.list_banks,
        opening.list_versions,
        partial(opening.bank_versions, "b"),
        partial(opening.use_bank, "b@1"),
        partial(opening.delete_bank, "b"),
        lambda settings, **given: import_bank("nowhere", settings, **given),
    ],
)
def test_settings_and_single_settings_exclude_each_other(ask: Callable[..., Any], tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path / "here")
    with pytest.raises(
        LatentBankError, match=r"^Both settings and single settings \(data_dir, ef\) are given;"
    ):
        ask(settings, data_dir=tmp_path / "elsewhere", ef=9, url=None)
    assert list(tmp_path.iterdir()) == []


def test_a_single_setting_that_is_none_is_not_given(tmp_path: Path) -> None:
    assert opening.list_banks(load_settings(data_dir=tmp_path), url=None) == []
