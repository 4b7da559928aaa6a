"""Settings: where banks are, and how layer collections are stored and searched."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from latentbank.bank.env_file import EnvFile
from latentbank.bank.variables import check_variables
from latentbank.errors import LatentBankError
from latentbank.places import default_data_dir
from latentbank.text import listed

Quantization = Literal["int8", "turbo", "none"]
Metric = Literal["cosine", "centred"]


class Settings(BaseSettings):
    """Settings from arguments, then `LATENTBANK_*` environment variables, then `.env` in the current folder.

    `.env` does not decide where a key from elsewhere goes; see `bank/env_file.py`.
    """

    model_config = SettingsConfigDict(
        env_prefix="LATENTBANK_",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        allow_inf_nan=False,
    )

    url: str = Field("", description="URL of a Qdrant server; empty: embedded banks on this machine.")
    api_key: SecretStr | None = Field(None, description="Key of the Qdrant server.")
    api_key_file: Path | None = Field(None, description="File that holds the key, instead of api_key.")
    bank: str = Field("", description="The bank to use when none is named.")
    data_dir: Path = Field(default_factory=default_data_dir, description="Folder of embedded banks.")

    grpc_port: int = Field(
        6334, ge=1, le=65535, description="The server's gRPC port, used for bulk work where it answers."
    )
    prefer_grpc: bool = Field(True, description="Use gRPC for bulk work; REST where it is refused.")
    tls_ca: Path | None = Field(None, description="PEM file of the certificate authority to trust.")
    timeout: int = Field(60, gt=0, description="Seconds to wait for one answer of the server.")
    retries: int = Field(8, ge=0, description="How often a failed request is tried again.")
    retry_wait: float = Field(0.5, ge=0, description="Seconds before the first retry; doubles, at most 30.")
    upload_batch: int = Field(128, gt=0, description="Points in one request to a server.")
    upload_connections: int = Field(
        0,
        ge=0,
        le=64,
        description="Requests at once while contexts are stored on a server; 0: one for every two of its cores, at "
        "most 4.",
    )
    shard_number: int = Field(1, gt=0, description="Shards of each layer collection on a server.")
    replication_factor: int = Field(1, gt=0, description="Copies of each shard on a server.")
    write_consistency_factor: int = Field(
        1,
        gt=0,
        description="Copies of a shard that must have stored a write before it is acknowledged.",
    )

    quantization: Quantization = Field("int8", description="How vectors are compressed in RAM.")
    metric: Metric = Field(
        "cosine", description="What a new bank compares: cosine, or cosine after centring."
    )
    hnsw_m: int = Field(16, ge=4, description="Edges per node of the HNSW graph.")
    hnsw_ef_construct: int = Field(100, ge=4, description="Candidates while the graph is built.")
    graph_from: int = Field(
        60_000,
        ge=0,
        description="Contexts from which a layer gets an HNSW graph; below it the quantized vectors are scanned.",
    )
    ef: int = Field(
        200,
        gt=0,
        description="Candidates while a graph is searched; embedded, that is for a graph of 600,000 contexts, and "
        "smaller ones get fewer.",
    )
    ef_visual: int = Field(
        1024,
        gt=0,
        description="The same for visual tokens: far from all text, they lose their way in a graph of it sooner.",
    )
    search: Literal["auto", "graph", "exact"] = Field(
        "auto",
        description="graph: through the index; exact: compare with every context in float32; auto: the faster of both "
        "that finds 99 of 100 neighbors.",
    )
    oversampling: float = Field(6.0, ge=1, description="Candidates per neighbor that are rescored exactly.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return where settings are read, the most important first."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, EnvFile(settings_cls)

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        if not url:
            return url
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("it must be http://HOST:PORT or https://HOST:PORT")
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise ValueError("it must hold neither a user nor a key; the key belongs in LATENTBANK_API_KEY")
        if parts.port == 0:  # reading the port raises ValueError if it is not a number
            raise ValueError("its port cannot be 0")
        return url.rstrip("/")

    @field_validator("data_dir", "api_key_file", "tls_ca")
    @classmethod
    def _home(cls, path: Path | None) -> Path | None:
        return None if path is None else path.expanduser()

    def key(self) -> str | None:
        """Return the server's API key, from the setting or from its file; None if there is none.

        Raises:
            LatentBankError: the file cannot be read, or holds no valid key.
        """
        if self.api_key is not None:
            key, source = self.api_key.get_secret_value(), "LATENTBANK_API_KEY"
        elif self.api_key_file is not None:
            key, source = self._read_key(self.api_key_file), f"The API key file {self.api_key_file}"
        else:
            return None
        if not (key and key.isascii() and key.isprintable()):
            raise LatentBankError(f"{source} holds no valid key: a key is one line of ASCII characters.")
        return key

    def _read_key(self, path: Path) -> str:
        try:
            return path.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise LatentBankError(
                f"The API key file {path} cannot be read ({getattr(error, 'strerror', None) or 'it is not text'}); "
                "correct LATENTBANK_API_KEY_FILE."
            ) from None


class SettingsBesidesMetric(TypedDict, total=False):
    """Settings as keyword arguments of functions that have an argument `metric` of their own."""

    url: str | None
    api_key: str | SecretStr | None
    api_key_file: str | os.PathLike[str] | None
    bank: str | None
    data_dir: str | os.PathLike[str] | None
    grpc_port: int | None
    prefer_grpc: bool | None
    tls_ca: str | os.PathLike[str] | None
    timeout: int | None
    retries: int | None
    retry_wait: float | None
    upload_batch: int | None
    upload_connections: int | None
    shard_number: int | None
    replication_factor: int | None
    write_consistency_factor: int | None
    quantization: Quantization | None
    hnsw_m: int | None
    hnsw_ef_construct: int | None
    graph_from: int | None
    ef: int | None
    ef_visual: int | None
    search: Literal["auto", "graph", "exact"] | None
    oversampling: float | None


class SettingsGiven(SettingsBesidesMetric, total=False):
    """Settings as keyword arguments: the fields of `Settings`. None leaves one to the environment and the defaults."""

    metric: Metric | None


def load_settings(**given: Unpack[SettingsGiven]) -> Settings:
    """Return settings; for arguments that are None, the environment and the defaults apply.

    Raises:
        LatentBankError: a setting is unknown or has an invalid value, or a variable of the environment or of `.env` is
            named nearly like one; the message names the setting, never its value. Or `.env` would send a key from
            elsewhere to its own URL.

    Examples:
        >>> import latentbank as lb
        >>> team = lb.load_settings(url="https://qdrant.example.org:6333", timeout=30)
        >>> team.timeout
        30
    """
    unknown = sorted(given.keys() - Settings.model_fields.keys())
    if unknown:
        raise LatentBankError(
            f"There is no setting {listed(unknown)}; there are {listed(Settings.model_fields)}."
        )
    values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    try:
        settings = Settings(**values)
        check_variables(Settings.model_fields)
        return settings
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name, reason = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        if name in values:
            raise LatentBankError(f"The setting {name} is wrong: {reason}.") from None
        raise LatentBankError(f"The setting LATENTBANK_{name.upper()} is wrong: {reason}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise LatentBankError(
            f"The file .env in the current folder cannot be read ({type(error).__name__}); correct or remove it."
        ) from None


def settings_from(settings: Settings | None, **given: Unpack[SettingsGiven]) -> Settings:
    """Return `settings`, or if it is None what `load_settings` makes of the single settings.

    Raises:
        LatentBankError: both are given, or a single setting is unknown or has an invalid value.
    """
    if settings is None:
        return load_settings(**given)
    if not isinstance(settings, Settings):
        raise LatentBankError(
            f"settings is of type {type(settings).__name__}; make settings with load_settings."
        )
    if named := sorted(name for name, value in given.items() if value is not None):
        raise LatentBankError(
            f"Both settings and single settings ({listed(named)}) are given; give one or the other."
        )
    return settings
