"""`latentbank train projector`: train the projector of a vision-language model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentbank.cli.grouping import command, named_otherwise
from latentbank.cli.options.common import ConfigOption, GlobalOptions, JsonOption
from latentbank.cli.options.models import DeviceOptions, TrustOption

if TYPE_CHECKING:
    from latentbank.models.training.features import Features
    from latentbank.models.training.pairs import PairSource
    from latentbank.models.training.stages import Stage, TrainSettings

app = typer.Typer(no_args_is_help=True, help="Train the projector of a vision-language model.")


@app.callback()
def _train() -> None:
    """Keep `projector` a subcommand although it is the only one."""


@dataclass(frozen=True, kw_only=True)
class PairOptions:
    """The images and captions that a projector is trained on."""

    data: Annotated[
        str, typer.Option(help="Folder with metadata.jsonl, Parquet file, or dataset on the hub.")
    ]
    image_column: Annotated[
        str | None, typer.Option(help="Column of images or their addresses; by default it is detected.")
    ] = None
    caption_column: Annotated[
        str | None, typer.Option(help="Column of captions; by default it is detected.")
    ] = None
    config: ConfigOption = None
    split: Annotated[str, typer.Option(help="Split of a dataset.")] = "train"
    limit: Annotated[int | None, typer.Option(min=1, help="Read at most this many rows.")] = None

    def open(self) -> PairSource:
        """Open the pairs."""
        from latentbank.models.training.pairs import open_pairs

        return open_pairs(
            self.data,
            image=self.image_column,
            caption=self.caption_column,
            config=self.config,
            split=self.split,
            limit=self.limit,
        )


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The projector, and how it is trained."""

    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the projector, its card, log and plot.")
    ]
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")]
    projector: Annotated[str, typer.Option(help="linear, mlp (two layers) or mlp3 (three).")] = "mlp3"
    width: Annotated[
        int | None,
        typer.Option(min=1, help="Width between the projector's layers; by default twice the LLM's."),
    ] = None
    init: Annotated[Path | None, typer.Option(help="Projector file to start from.")] = None
    batch: Annotated[int, typer.Option(min=1, help="Pairs in one step, over all processes.")] = 16
    accumulate: Annotated[
        int, typer.Option(min=1, help="Parts that each step is split into, to save memory.")
    ] = 1
    rate: Annotated[float, typer.Option(min=0.0, help="Highest learning rate, above 0.")] = 1e-3
    warmup: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the steps in which the rate rises.")
    ] = 0.03
    validation: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="Share of the images that is kept for validation.")
    ] = 0.02
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the initial weights, the order and the validation split.")
    ] = 0
    checkpoint_every: Annotated[float, typer.Option(min=0.0, help="Seconds between checkpoints.")] = 300.0

    def settings(self) -> TrainSettings:
        """Return the settings of the training."""
        from latentbank.models.training.stages import TrainSettings

        return TrainSettings(
            projector=self.projector,
            width=self.width,
            accumulate=self.accumulate,
            seed=self.seed,
            save_every=self.checkpoint_every,
        )

    def stage(self, features: Features) -> tuple[Stage, Features | None]:
        """Return the training on `features`, and the part of them that is kept for validation."""
        from latentbank.models.training.stages import Stage

        training, kept = (
            features.split(self.validation, 256, self.seed) if self.validation else (features, None)
        )
        stage = Stage(training, steps=self.steps, batch=self.batch, rate=self.rate, warmup=self.warmup)
        return stage, kept


@command(
    app,
    "projector",
    example="train projector --vision openai/clip-vit-base-patch16 "
    "--llm HuggingFaceTB/SmolLM2-135M --data photos/ --steps 5000 --output clip-smollm2",
    first="vision llm data output steps projector width vision_layer cls init batch accumulate rate warmup validation "
    "seed image_column caption_column config split limit features encoder_batch",
)
def train_projector(
    ctx: typer.Context,
    *,
    vision: Annotated[
        str, typer.Option(help="Vision encoder: hub id, folder, or efficientnet-lite0 (the demo's).")
    ],
    llm: Annotated[str, typer.Option(help="Language model: hub id, folder or .gguf file.")],
    vision_layer: Annotated[
        int,
        typer.Option(help="Encoder layer: 0 before the first block, -1 after the last, -2 the one before."),
    ] = -2,
    cls: Annotated[bool, typer.Option("--cls", help="Pass the CLS token to the LLM too.")] = False,
    pairs: PairOptions,
    features: Annotated[
        Path | None, typer.Option(help="Folder of vision features; by default beside the banks.")
    ] = None,
    encoder_batch: Annotated[int, typer.Option(min=1, help="Images encoded at a time.")] = 32,
    train: TrainOptions,
    devices: DeviceOptions,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a projector between a frozen vision encoder and a frozen LLM. Run again, it continues.

    Several GPUs: `accelerate launch -m latentbank train projector ...`.
    """
    from latentbank.cli.output.jobs import show_projector
    from latentbank.models.composite.projector import load_projector
    from latentbank.models.language.model import load_language_model
    from latentbank.models.training.features import cache_features
    from latentbank.models.training.processes import processes
    from latentbank.models.training.train import train_projector as run
    from latentbank.models.vision.encoders import load_encoder
    from latentbank.progress import Silent, shown

    settings = train.settings()
    if train.init is not None:
        load_projector(train.init)  # before hours of encoding
    state = processes(devices.device)
    device = devices.device or str(state.device)
    loading: dict[str, Any] = {
        "device": device,
        "dtype": devices.dtype,
        "trust_remote_code": trust_remote_code,
    }
    with named_otherwise(image="image_column", caption="caption_column"):
        opened = pairs.open()
    encoder = load_encoder(vision, layer=vision_layer, cls=cls, **loading)
    data_dir = GlobalOptions.of(ctx).settings().data_dir
    folder = features or data_dir / ".features"
    main = state.is_main_process
    with (
        named_otherwise(image="image_column", caption="caption_column", batch="encoder_batch"),
        state.main_process_first(),
        shown("encoding", "images") as progress,
    ):
        progress = progress if main else Silent()
        encoded = cache_features(encoder, opened, folder, opened.data, batch=encoder_batch, progress=progress)
    stage, kept = train.stage(encoded)
    language = load_language_model(llm, **loading)
    with shown("training", "steps") as progress:
        progress = progress if main else Silent()
        file = run(
            [stage],
            language,
            settings,
            train.output,
            validation=kept,
            init=train.init,
            data_dir=data_dir,
            progress=progress,
        )
    if main:
        show_projector(file, load_projector(file)[1], as_json=as_json)
