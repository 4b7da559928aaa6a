"""Commands that train: `latentbank train projector`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentbank.cli.options import Common, ConfigOption, DeviceOption, DtypeOption, JsonOption, TrustOption

app = typer.Typer(no_args_is_help=True, help="Train the projector of a vision-language model.")


@app.callback()
def _train() -> None:
    """Keep `projector` a subcommand although it is the only one."""


@app.command(
    "projector",
    epilog="Example: latentbank train projector --vision openai/clip-vit-base-patch16 "
    "--llm HuggingFaceTB/SmolLM2-135M --data photos/ --steps 5000 --output clip-smollm2",
)
def train_projector(
    vision: Annotated[
        str, typer.Option(help="Vision encoder: hub id, folder, or efficientnet-lite0 (the demo's).")
    ],
    llm: Annotated[str, typer.Option(help="Language model: hub id, folder or .gguf file.")],
    data: Annotated[
        str, typer.Option(help="Folder with metadata.jsonl, Parquet file, or dataset on the hub.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the projector, its card, log and plot.")
    ],
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")],
    projector: Annotated[str, typer.Option(help="linear, mlp (two layers) or mlp3 (three).")] = "mlp3",
    width: Annotated[
        int | None, typer.Option(min=1, help="Width between the layers; by default twice the LLM's.")
    ] = None,
    vision_layer: Annotated[
        int,
        typer.Option(help="Encoder layer: 0 before the first block, -1 after the last, -2 the one before."),
    ] = -2,
    cls: Annotated[bool, typer.Option("--cls", help="Give the CLS token to the LLM too.")] = False,
    init: Annotated[Path | None, typer.Option(help="Projector file to begin with.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pairs in one step, over all processes.")] = 16,
    accumulate: Annotated[int, typer.Option(min=1, help="Parts a step is run in, to save memory.")] = 1,
    rate: Annotated[float, typer.Option(min=0.0, help="Highest learning rate.")] = 1e-3,
    warmup: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the steps in which the rate rises.")
    ] = 0.03,
    validation: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="Share of the images that is kept for validation.")
    ] = 0.02,
    seed: Annotated[int, typer.Option(min=0, help="Of first weights, order and validation.")] = 0,
    image_column: Annotated[
        str | None, typer.Option(help="Column of images or their addresses; by default it is found.")
    ] = None,
    caption_column: Annotated[
        str | None, typer.Option(help="Column of captions; by default it is found.")
    ] = None,
    config: ConfigOption = None,
    split: Annotated[str, typer.Option(help="Split of a dataset.")] = "train",
    limit: Annotated[int | None, typer.Option(min=1, help="Read only the first so many rows.")] = None,
    features: Annotated[
        Path | None, typer.Option(help="Folder of vision features; by default beside the banks.")
    ] = None,
    encoder_batch: Annotated[int, typer.Option(min=1, help="Images encoded at a time.")] = 32,
    checkpoint_every: Annotated[float, typer.Option(min=0.0, help="Seconds between checkpoints.")] = 300.0,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a projector between a frozen vision encoder and a frozen LLM. Run again, it goes on.

    Several GPUs: `accelerate launch -m latentbank train projector ...`.
    """
    from latentbank.cli.output.tables import show_projector
    from latentbank.models.composite.projector import load_projector
    from latentbank.models.language.model import load_language_model
    from latentbank.models.training.features import cache_features
    from latentbank.models.training.pairs import open_pairs
    from latentbank.models.training.stages import Stage, TrainSettings
    from latentbank.models.training.train import processes
    from latentbank.models.training.train import train_projector as run
    from latentbank.models.vision.encoders import load_encoder
    from latentbank.progress import Silent, shown

    settings = TrainSettings(
        projector=projector, width=width, accumulate=accumulate, seed=seed, save_every=checkpoint_every
    )
    if init is not None:
        load_projector(init)  # before hours of encoding
    state = processes(device)
    chosen = device or str(state.device)
    pairs = open_pairs(
        data, image=image_column, caption=caption_column, config=config, split=split, limit=limit
    )
    encoder = load_encoder(
        vision,
        layer=vision_layer,
        cls=cls,
        device=chosen,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
    )
    folder = features or Common.settings().data_dir / ".features"
    with state.main_process_first(), shown("encoding", "images") as progress:
        encoded = cache_features(
            encoder,
            pairs,
            folder,
            pairs.data,
            batch=encoder_batch,
            progress=progress if state.is_main_process else Silent(),
        )
    training, held = encoded.split(validation, 256, seed) if validation else (encoded, None)
    language = load_language_model(llm, device=chosen, dtype=dtype, trust_remote_code=trust_remote_code)
    stage = Stage(training, steps=steps, batch=batch, rate=rate, warmup=warmup)
    with shown("training", "steps") as progress:
        file = run(
            [stage],
            language,
            settings,
            output,
            validation=held,
            init=init,
            progress=progress if state.is_main_process else Silent(),
        )
    if state.is_main_process:
        show_projector(file, load_projector(file)[1], as_json=as_json)
