"""`latentbank train projector`: train the projector of a vision-language model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentbank.cli.grouping import command, named_otherwise
from latentbank.cli.options.common import ConfigOption, GlobalOptions, JsonOption
from latentbank.cli.options.hub import PushOptions
from latentbank.cli.options.models import DeviceOptions, TrustOption
from latentbank.errors import LatentBankError

if TYPE_CHECKING:
    from latentbank.models.training.features import Features
    from latentbank.models.training.pairs import PairSource
    from latentbank.models.training.recipes import Recipe
    from latentbank.models.training.stages import Stage, TrainSettings

app = typer.Typer(
    no_args_is_help=True, help="Train the projector of a vision-language model, or a lens of an LLM."
)


@dataclass(frozen=True, kw_only=True)
class PairOptions:
    """The images and captions that a projector is trained on."""

    data: Annotated[
        str | None,
        typer.Option(
            help="Folder with metadata.jsonl, Parquet file, or dataset on the hub; a recipe names one."
        ),
    ] = None
    image_column: Annotated[
        str | None, typer.Option(help="Column of images or their addresses; by default it is detected.")
    ] = None
    caption_column: Annotated[
        str | None, typer.Option(help="Column of captions; by default it is detected.")
    ] = None
    target: Annotated[
        str,
        typer.Option(
            help="What the LLM learns to write: caption, first-sentence of it, or a column of texts."
        ),
    ] = "caption"
    config: ConfigOption = None
    split: Annotated[str, typer.Option(help="Split of a dataset.")] = "train"
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Read at most this many rows; with a recipe by default what its steps see."),
    ] = None

    def open(self, data: str | None, rows: int | None) -> PairSource:
        """Open the pairs.

        Args:
            data: what a recipe names where no data is given.
            rows: the number of rows to read of a recipe's data where no limit is given.
        """
        from latentbank.models.training.pairs import open_pairs

        caption = self.caption_column
        if self.caption_option() == "target":
            if caption is not None:
                raise LatentBankError(
                    f"The column {self.target} is to be written, so no other can be: leave one of them out.",
                    argument="caption_column",
                )
            caption = self.target
        source = self.data or data
        if source is None:
            raise LatentBankError("There is nothing to train on: name the data.", argument="data")
        return open_pairs(
            source,
            image=self.image_column,
            caption=caption,
            config=self.config,
            split=self.split,
            limit=self.limit or (None if self.data else rows),
        )

    def caption_option(self) -> str:
        """Return the option that names the column of captions."""
        from latentbank.models.training.targets import CAPTION, FIRST_SENTENCE

        return "caption_column" if self.target in (CAPTION, FIRST_SENTENCE) else "target"

    def chosen(self, features: Features) -> Features:
        """Return encoded pairs with what is to be written about them."""
        from latentbank.models.training.targets import FIRST_SENTENCE, first_sentences

        return first_sentences(features) if self.target == FIRST_SENTENCE else features


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The projector, and how it is trained; what is None is as the recipe says."""

    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the projector, its card, log and plot.")
    ]
    recipe: Annotated[
        str | None, typer.Option(help="Defaults of a published training: latentlens, the paper's.")
    ] = None
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps; a recipe says how many.")] = None
    projector: Annotated[
        str | None, typer.Option(help="linear, mlp (two layers), mlp3 (three, default) or swiglu.")
    ] = None
    width: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Width between the projector's layers; default twice the LLM's, swiglu: that of its MLP.",
        ),
    ] = None
    init: Annotated[Path | None, typer.Option(help="Projector file to start from.")] = None
    finetune_llm: Annotated[bool, typer.Option("--finetune-llm", help="Train the LLM, too.")] = False
    llm_rate: Annotated[
        float | None,
        typer.Option(min=0.0, help="Highest learning rate of an LLM that is trained; default 2e-5."),
    ] = None
    prompt: Annotated[
        str | None, typer.Option(help="Style of a prompt before the caption, such as long_caption.")
    ] = None
    batch: Annotated[
        int | None, typer.Option(min=1, help="Pairs in one step, over all processes; default 16.")
    ] = None
    accumulate: Annotated[
        int, typer.Option(min=1, help="Parts that each step is split into, to save memory.")
    ] = 1
    rate: Annotated[
        float | None, typer.Option(min=0.0, help="Highest learning rate, above 0; default 0.001.")
    ] = None
    warmup: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Share of the steps in which the rate rises; default 0.03."),
    ] = None
    validation: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="Share of the images that is kept for validation.")
    ] = 0.02
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of weights, order, prompts, dropout and the validation split.")
    ] = 0
    checkpoint_every: Annotated[float, typer.Option(min=0.0, help="Seconds between checkpoints.")] = 300.0

    def chosen_recipe(self) -> Recipe:
        """Return the recipe, or what counts without one.

        Raises:
            LatentBankError: there is no such recipe, or nothing says how long to train.
        """
        from latentbank.models.training.recipes import recipe_of

        recipe = recipe_of(self.recipe)
        if self.steps is None and recipe.steps is None:
            raise LatentBankError(
                "Say how long to train: give a number of steps, or a recipe.", argument="steps"
            )
        return recipe

    def settings(self, autocast: str | None) -> TrainSettings:
        """Return the settings of the training.

        Args:
            autocast: dtype of the products of matrices in an LLM that is trained.
        """
        from latentbank.models.training.recipes import recipe_of, settings_of

        return settings_of(
            recipe_of(self.recipe),
            projector=self.projector,
            width=self.width,
            prompt=self.prompt,
            autocast=autocast,
            accumulate=self.accumulate,
            seed=self.seed,
            save_every=self.checkpoint_every,
        )

    def rows(self) -> int | None:
        """Return the number of rows of the recipe's data that its steps see, with those for validation."""
        recipe = self.chosen_recipe()
        steps, batch = self.steps or recipe.steps, self.batch or recipe.batch
        return math.ceil(steps * batch / (1 - self.validation)) if steps else None

    def stage(self, features: Features) -> tuple[Stage, Features | None]:
        """Return the training on `features`, and the part of them that is kept for validation."""
        from latentbank.models.training.stages import Stage

        training, kept = (
            features.split(self.validation, 256, self.seed) if self.validation else (features, None)
        )
        recipe = self.chosen_recipe()
        in_steps = self.warmup is None
        stage = Stage(
            training,
            steps=self.steps or recipe.steps,
            batch=self.batch or recipe.batch,
            rate=recipe.rate if self.rate is None else self.rate,
            warmup=recipe.warmup if self.warmup is None else self.warmup,
            warmup_steps=recipe.warmup_steps if in_steps else None,
            floor=recipe.floor,
            llm_rate=(self.llm_rate or recipe.llm_rate) if self.finetune_llm else None,
            llm_warmup_steps=recipe.llm_warmup_steps if in_steps and self.finetune_llm else None,
        )
        return stage, kept


@command(
    app,
    "projector",
    example="train projector --vision openai/clip-vit-base-patch16 "
    "--llm HuggingFaceTB/SmolLM2-135M --data photos/ --steps 5000 --output clip-smollm2",
    first="vision llm data output recipe steps projector width encoder_layers cls init finetune_llm llm_rate target "
    "prompt batch accumulate rate warmup validation seed image_column caption_column config split limit features "
    "encoder_batch",
)
def train_projector(
    ctx: typer.Context,
    *,
    vision: Annotated[
        str, typer.Option(help="Vision encoder: hub id, folder, or efficientnet-lite0 (the demo's).")
    ],
    llm: Annotated[str, typer.Option(help="Language model: hub id, folder or .gguf file.")],
    encoder_layers: Annotated[
        str | None,
        typer.Option(
            "--encoder-layers",
            "--vision-layer",
            help="Encoder layers, whose outputs are joined: 0 before the first block, -1 after the last, -2 the one "
            "before (default); --encoder-layers=-2,-9.",
        ),
    ] = None,
    cls: Annotated[bool, typer.Option("--cls", help="Pass the CLS token to the LLM too.")] = False,
    pairs: PairOptions,
    features: Annotated[
        Path | None, typer.Option(help="Folder of vision features; by default beside the banks.")
    ] = None,
    encoder_batch: Annotated[int, typer.Option(min=1, help="Images encoded at a time.")] = 32,
    train: TrainOptions,
    push: PushOptions,
    devices: DeviceOptions,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a projector between a frozen vision encoder and an LLM. Run again, it continues.

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

    recipe = train.chosen_recipe()
    state = processes(devices.device)
    device = devices.device or str(state.device)
    dtype, autocast = _dtypes(devices.dtype or recipe.dtype, device, train.finetune_llm)
    settings = train.settings(autocast)
    if train.init is not None:
        load_projector(train.init)  # before hours of encoding
    loading: dict[str, Any] = {"device": device, "trust_remote_code": trust_remote_code}
    column = pairs.caption_option()
    with named_otherwise(image="image_column", caption=column):
        opened = pairs.open(recipe.data, train.rows())
    used = _input(vision, encoder_layers, recipe.fits_pictures, trust_remote_code)
    encoder = load_encoder(vision, cls=cls, dtype=devices.dtype or recipe.dtype, **used, **loading)
    data_dir, main = GlobalOptions.of(ctx).settings().data_dir, state.is_main_process
    target = push.prepare_projector() if main else None
    with (
        named_otherwise(image="image_column", caption=column, batch="encoder_batch"),
        state.main_process_first(),
        shown("encoding", "images") as progress,
    ):
        folder, seen = features or data_dir / ".features", progress if main else Silent()
        encoded = cache_features(encoder, opened, folder, opened.data, batch=encoder_batch, progress=seen)
    stage, kept = train.stage(pairs.chosen(encoded))
    language = load_language_model(llm, dtype=dtype, **loading)
    with shown("training", "steps") as progress:
        file = run(
            [stage],
            language,
            settings,
            train.output,
            validation=kept,
            init=train.init,
            data_dir=data_dir,
            progress=progress if main else Silent(),
        )
    if main:
        show_projector(file, load_projector(file)[1], push.projector(file, target), as_json=as_json)


def _layers(text: str) -> list[int]:
    """Return encoder layers in the order given: that of their features."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise LatentBankError(
            f"'{text}' is not a list of layers; write numbers with commas, such as -2,-9.",
            argument="encoder_layers",
        ) from None


def _dtypes(dtype: str | None, device: str, trained: bool) -> tuple[str | None, str | None]:
    """Return the dtype that the LLM is loaded in, and that of its products of matrices if it is trained."""
    from latentbank.models.language.devices import choose_device, choose_dtype

    if not trained:
        return dtype, None
    chosen = str(choose_dtype(dtype, choose_device(device))).removeprefix("torch.")
    return "float32", None if chosen == "float32" else chosen


def _input(vision: str, layers: str | None, as_in_paper: bool, trust_remote_code: bool) -> dict[str, Any]:
    """Return how the encoder is used, as arguments of `load_encoder`: `layer` and `pictures`."""
    from latentbank.models.training.recipes import paper_input
    from latentbank.models.vision.encoders import DEFAULT_LAYER

    found = (
        paper_input(vision, trust_remote_code=trust_remote_code) if as_in_paper else {"layer": DEFAULT_LAYER}
    )
    return found if layers is None else {**found, "layer": _layers(layers)}
