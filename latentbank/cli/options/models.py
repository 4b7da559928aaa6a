"""Options that name a model and say how it is loaded."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentbank.cli.options.common import LayerChoice, deepest_of
from latentbank.errors import LatentBankError

if TYPE_CHECKING:
    from latentbank.bank.settings import Settings
    from latentbank.models.language.model import LanguageModel
    from latentbank.models.vision.tokens import VisualModel

TrustOption = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")]


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Where a model runs, and in which dtype."""

    device: Annotated[
        str | None,
        typer.Option(
            help="cpu, cuda, cuda:1, mps, or auto (all GPUs and the CPU); by default a GPU if there is one."
        ),
    ] = None
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16, float16 or auto; auto, the default, depends on the device."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class LoadingOptions(DeviceOptions):
    """How a model is loaded."""

    load_in: Annotated[
        str | None, typer.Option("--load-in", help="4bit or 8bit: quantize the weights (extra quantized).")
    ] = None
    adapter: Annotated[
        str | None,
        typer.Option(help="LoRA adapter to add to the weights: a folder that PEFT saved, or hub id."),
    ] = None
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")] = None
    trust_remote_code: TrustOption = False

    def load_vlm(
        self,
        name: str,
        deepest_layer: int | Callable[[int], int],
        settings: Settings,
        *,
        revision: str | None = None,
        say: Callable[[str], None] | None = None,
    ) -> VisualModel:
        """Load a vision-language model; the demo's LLM is kept beside the banks.

        Args:
            name: hub id, folder, projector file or "demo".
            deepest_layer: the deepest layer needed, or a function that returns it from the number of layers.
            settings: settings with the folder of the banks.
            revision: revision to load where no option names one.
            say: gets a line of text before a step that takes long; by default it goes to standard error.
        """
        from latentbank.models.visual import load_visual_model

        return load_visual_model(
            name,
            device=self.device,
            dtype=self.dtype,
            load_in=self.load_in,
            adapter=self.adapter,
            revision=self.revision or revision,
            deepest_layer=deepest_layer,
            trust_remote_code=self.trust_remote_code,
            folder=demo_folder(settings),
            data_dir=settings.data_dir,
            say=say or (lambda text: print(text, file=sys.stderr)),
        )

    def load_language(
        self,
        name: str,
        deepest_layer: int | Callable[[int], int],
        *,
        revision: str | None = None,
    ) -> LanguageModel:
        """Load an LLM.

        Args:
            name: hub id, folder or .gguf file.
            deepest_layer: the deepest layer needed, or a function that returns it from the number of layers.
            revision: revision to load where no option names one.
        """
        from latentbank.models.language.model import load_language_model

        if name.endswith(".gguf") and Path(name).is_file():
            print(f"unpacking {name}, up to a minute ...", file=sys.stderr)
        return load_language_model(
            name,
            device=self.device,
            dtype=self.dtype,
            load_in=self.load_in,
            adapter=self.adapter,
            revision=self.revision or revision,
            deepest_layer=deepest_layer,
            trust_remote_code=self.trust_remote_code,
        )


@dataclass(frozen=True, kw_only=True)
class ModelOptions(LoadingOptions):
    """An LLM, and how it is loaded."""

    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Hub id, folder or .gguf file; by default the bank's own model."),
    ] = None

    def load_llm(
        self, layers: LayerChoice, default: str | None = None, default_revision: str | None = None
    ) -> LanguageModel:
        """Load the LLM as deep as `layers`, or as deep as the default layers of a new bank.

        Args:
            layers: the layers needed, or a function that gives them; None: the default layers.
            default: the model to load where the option is not given.
            default_revision: the revision of `default`.

        Raises:
            LatentBankError: no model is named.
        """
        name = self.model or default
        if name is None:
            raise LatentBankError("Name the LLM with --model: a hub id, a folder or a .gguf file.")
        from latentbank.ingest.defaults import default_layers

        return self.load_language(
            name,
            deepest_of(layers or default_layers) or 0,
            revision=None if self.model else default_revision,
        )


@dataclass(frozen=True, kw_only=True)
class VisualModelOptions(LoadingOptions):
    """A vision-language model, and how it is loaded."""

    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Hub id or folder of a VLM, a projector's .safetensors file, or demo; by default the bank's own "
            "model.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class SceneModelOptions(LoadingOptions):
    """The vision-language model that is scored, and how it is loaded."""

    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", help="Hub id or folder of a VLM, a projector's .safetensors file, or demo."
        ),
    ] = "demo"


def demo_folder(settings: Settings) -> Path:
    """Return the folder of the demo's LLM: where it lies unpacked already, or else where it will be kept.

    It may lie among the converted models, where this machine has read it before, or beside the folder of the banks.
    """
    from latentbank.demo.names import LANGUAGE_NAME
    from latentbank.found_models import known_as

    kept = models_folder(settings) / "demo"
    beside = settings.data_dir.resolve().parent / LANGUAGE_NAME
    folders = (kept, *map(Path, known_as(settings.data_dir, LANGUAGE_NAME)), beside)
    return next((folder for folder in folders if (folder / "config.json").is_file()), kept)


def models_folder(settings: Settings) -> Path:
    """Return the folder of converted models, which are kept because they load faster."""
    return settings.data_dir / ".models"  # no bank's name begins with a dot
