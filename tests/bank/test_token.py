"""Readers' tokens: their claims, what a server lets their holders do, and who cannot sign them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from latentbank.bank.opening import list_banks, open_bank
from latentbank.bank.settings import Settings
from latentbank.bank.store.backends import backend
from latentbank.bank.token import claims_of, expiry, only_reads, read_token
from latentbank.errors import BankUnavailable, LatentBankError
from tests.bank.samples import Place, fill, is_one_sentence, sample_bank, units
from tests.bank.servers import KEY, Doubles, settings
from tests.wire.double import QdrantDouble

READER = "a-key-that-only-reads"
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def token(**changes: object) -> str:
    given = {
        "key": KEY,
        "banks": ["bank"],
        "layers": [4, 8],
        "expires": datetime.now(UTC) + timedelta(days=1),
    }
    return read_token(**(given | changes))  # type: ignore[arg-type]


def test_a_token_is_what_its_standard_says() -> None:
    made = token(banks=["a", "b.c@7"], layers=[4, 120], expires=NOW, versions=[1, 2])
    head, claims, signature = made.split(".")
    assert "=" not in made
    parts = [json.loads(base64.urlsafe_b64decode(part + "==")) for part in (head, claims)]
    assert parts[0] == {"alg": "HS256", "typ": "JWT"}
    assert parts[1] == {
        "exp": int(NOW.timestamp()),
        "access": [
            {"collection": name, "access": "r"}
            for name in (
                *("a--ledger", "a--L04", "a--L120", "a@2--ledger", "a@2--L04", "a@2--L120"),
                *("a@in-use--L04", "a@in-use--L120"),
                *("b.c@7--ledger", "b.c@7--L04", "b.c@7--L120"),
            )
        ],
    }
    expected = hmac.new(KEY.encode(), f"{head}.{claims}".encode(), hashlib.sha256).digest()
    assert base64.urlsafe_b64decode(signature + "=") == expected
    assert claims_of(made) == parts[1]
    assert only_reads(parts[1])
    assert not only_reads({"access": "m"})


@pytest.mark.parametrize("key", ["", "plain", "a.b.c", "a.b", f"{KEY}.{KEY}.{KEY}", "ä.ö.ü"])
def test_invalid_tokens(key: str) -> None:
    assert claims_of(key) is None


def test_a_token_cannot_sign_another_token() -> None:
    with pytest.raises(LatentBankError, match="only the server's admin key can sign") as caught:
        token(key=token())
    assert token() not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("45m", timedelta(minutes=45)),
        ("12h", timedelta(hours=12)),
        (" 30 d", timedelta(days=30)),
        ("2w", timedelta(14)),
    ],
)
def test_expiry(text: str, after: timedelta) -> None:
    assert expiry(text, NOW) == NOW + after
    assert datetime.now(UTC) < expiry(text)


@pytest.mark.parametrize("text", ["", "30", "d", "0d", "-1d", "1y", "1.5d", "999999w", "30d 1h"])
def test_invalid_expiry(text: str) -> None:
    with pytest.raises(LatentBankError, match="write 12h, 30d or 8w"):
        expiry(text)


@pytest.fixture
def team(double: Doubles, transport: str) -> tuple[QdrantDouble, Callable[[str], Settings]]:
    """A server with two banks, and a function that returns the settings for a key."""
    server = double(api_key=KEY, read_only_key=READER)

    def settings_with(key: str) -> Settings:
        return settings(server, transport, api_key=key)

    for name in ("bank", "secret"):
        with sample_bank(Place("server", settings_with(KEY)), name) as made:
            fill(made, 10)
    return server, settings_with


def test_a_token_opens_its_banks_for_reading_and_nothing_else(
    team: tuple[QdrantDouble, Callable[[str], Settings]],
) -> None:
    settings_with = team[1]
    reader = settings_with(token())
    assert list_banks(reader) == ["bank"]
    with open_bank("bank", reader) as opened:
        assert len(opened.search(units(1), "all", 20)[0]) == 20
        assert opened.count() == 10
        assert opened.words() != {}
        assert opened.verify() == []
        assert opened.info().layers.keys() == {4, 8}
        with pytest.raises(BankUnavailable, match="refuses the key"):
            fill(opened, 5)
        with pytest.raises(BankUnavailable, match="refuses the key"):
            opened.drop_corpus("animals")
    with pytest.raises(LatentBankError, match="no bank 'secret'"):
        open_bank("secret", reader)
    assert list_banks(settings_with(token(banks=["secret"], layers=[4]))) == ["secret"]


def test_a_bank_named_twice_is_opened_once(team: tuple[QdrantDouble, Callable[[str], Settings]]) -> None:
    """A server refuses a token that names a collection twice, as a bank beside its first version would."""
    for banks, layers in ((["bank", "bank"], [4, 8]), (["bank", "bank@1"], [4, 8]), (["bank"], [8, 4, 8])):
        made = token(banks=banks, layers=layers, versions=[1, 2, 2])
        claims = claims_of(made)
        assert claims is not None
        names = [entry["collection"] for entry in claims["access"]]
        assert sorted(names) == sorted(set(names))
        with open_bank("bank", team[1](made)) as opened:
            assert opened.count() == 10


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """Return what was warned about since the last call."""

    def read() -> str:
        text = "\n".join(caplog.messages)
        caplog.clear()
        return text

    return read


def test_a_token_too_long_for_grpc_says_so_and_reads_over_rest(
    team: tuple[QdrantDouble, Callable[[str], Settings]], warned: Callable[[], str]
) -> None:
    settings_with = team[1]
    others = [f"a-bank-with-a-long-name-{number:02d}" for number in range(30)]
    made = token(banks=["bank", *others])
    assert len(made) > 16_384
    assert f"has {len(made):,} characters for 527 collections, and gRPC carries keys of up to 15,000" in (
        text := warned()
    )
    assert "Open fewer versions or layers, or give out several tokens" in text
    with open_bank("bank", settings_with(made)) as opened:
        assert len(opened.search(units(1), "all", 20)[0]) == 20
    text = warned()
    over_grpc = settings_with(made).prefer_grpc
    assert (
        "bulk work goes over REST (slower); ask for a token with fewer banks or versions" in text
    ) is over_grpc
    assert "does not answer" not in text
    short = token(banks=["bank", *others], versions=[1])
    assert len(short) < 15_000
    with open_bank("bank", settings_with(short)) as opened:
        opened.search(units(1), "all", 20)
    assert warned().replace("the API key is sent unencrypted", "").count("REST") == 0


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (token(expires=datetime.now(UTC) - timedelta(hours=1)), "has ended; ask for a new one"),
        (token(key="another"), "refuses the key"),
        (token()[:-2], "refuses the key"),
    ],
)
def test_a_token_that_has_expired_or_is_invalid(
    team: tuple[QdrantDouble, Callable[[str], Settings]], made: str, sentence: str
) -> None:
    with pytest.raises(BankUnavailable, match=sentence) as caught:
        list_banks(team[1](made))
    assert is_one_sentence(caught.value)
    assert made not in str(caught.value)


def test_a_readers_key_stops_writers_before_any_work(
    team: tuple[QdrantDouble, Callable[[str], Settings]],
) -> None:
    server, settings_with = team
    server.requests.clear()
    backend(settings_with(KEY)).require_writer()
    assert [request.operation for request in server.requests] == ["update_aliases"]
    assert server.requests[0].summary == {"actions": []}
    for key in (READER, token()):
        with pytest.raises(BankUnavailable, match="can only read banks, not create or change") as caught:
            backend(settings_with(key)).require_writer()
        assert is_one_sentence(caught.value)
        assert key not in str(caught.value)
    assert len(server.requests) == 2  # none for the token, whose claims say that it only reads
    with pytest.raises(BankUnavailable, match="refuses the key"):
        backend(settings_with("a-wrong-key")).require_writer()


def test_embedded_banks_need_no_key(tmp_path: object) -> None:
    backend(Settings(url="")).require_writer()
