"""Options of ablations: in which way, how often, and what takes the place of ablated tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentbank.errors import QueryError
from latentbank.text import layer_numbers

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.bank.settings import Settings
    from latentbank.cli.options.models import LoadingOptions
    from latentbank.cli.options.scenes import SceneInputs
    from latentbank.models.vision.sources import ImageSource
    from latentbank.models.vision.tokens import VisualModel
    from latentbank.query.causes.cause import CauseOptions
    from latentbank.query.causes.writing import Act, Writings
    from latentbank.query.evaluation.experiments.causes import CauseSetup


@dataclass(frozen=True, kw_only=True)
class AblationOptions:
    """How visual tokens are ablated."""

    by: Annotated[
        str,
        typer.Option(
            "--by",
            help="mean (of visual tokens), image (another image's tokens at the same places) or attention (cut to the "
            "tokens); several with commas.",
        ),
    ] = "mean"
    others: Annotated[
        list[str] | None,
        typer.Option(
            "--other",
            help="Other images, files or folders, whose tokens take the place of ablated ones; image needs them.",
        ),
    ] = None
    tokens: Annotated[
        str | None,
        typer.Option(
            "--at",
            help="Ablate these visual tokens, by number, such as 15,16; by default those that show the word.",
        ),
    ] = None
    draws: Annotated[
        int, typer.Option("--draws", min=1, help="Draws of as many random tokens, and of tokens as near.")
    ] = 8
    answer: Annotated[
        int, typer.Option("--answer", min=1, help="The model's answer has at most this many tokens.")
    ] = 32
    batch: Annotated[
        int, typer.Option("--batch", min=1, help="Copies of the sequence in one forward pass.")
    ] = 16
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the draws.")] = 0

    def checked(self, *, writes: bool) -> list[ImageSource]:
        """Return the other images, once all options are checked.

        Args:
            writes: whether contexts are written instead of tokens ablated.

        Raises:
            QueryError: an option has no such value, or other images or the tokens are needed.
        """
        from latentbank.models.vision.sources import find_images

        others = list(find_images(self.others)) if self.others else []
        self.options(others).ways()
        if writes and self.tokens is None:
            raise QueryError("Name the visual tokens by number.", argument="tokens")
        return others

    def options(self, others: Sequence[ImageSource], **more: Any) -> CauseOptions:
        """Return the options with the other images; `more` are further fields.

        Raises:
            QueryError: the tokens are no numbers.
        """
        from latentbank.query.causes.cause import CauseOptions

        return CauseOptions(
            by=[name.strip() for name in self.by.split(",")],
            others=others,
            tokens=self.numbers(),
            draws=self.draws,
            answer=self.answer,
            batch=self.batch,
            seed=self.seed,
            **more,
        )

    def numbers(self) -> list[int] | None:
        """Return the numbers of the tokens; None: those that show the word.

        Raises:
            QueryError: they are no numbers.
        """
        if self.tokens is None:
            return None
        try:
            return sorted({int(part) for part in self.tokens.split(",")})
        except ValueError:
            raise QueryError(
                f"'{self.tokens}' is not a list of tokens; write numbers with commas, such as 15,16.",
                argument="tokens",
            ) from None


@dataclass(frozen=True, kw_only=True)
class WritingOptions:
    """Whether contexts are written into tokens, or their directions removed."""

    write: Annotated[
        bool,
        typer.Option("--write", help="Write contexts of the word into the tokens of --at, at each layer."),
    ] = False
    remove: Annotated[
        bool,
        typer.Option(
            "--remove",
            help="Remove the directions of such contexts from these tokens, from each layer on.",
        ),
    ] = False
    context_layer: Annotated[
        int | None,
        typer.Option(
            "--context-layer",
            help="Bank layer of the contexts; by default the visual layer, or the bank's nearest one.",
        ),
    ] = None

    def act(self) -> Act | None:
        """Return what is done with contexts; None: nothing.

        Raises:
            QueryError: both are asked for.
        """
        if self.write and self.remove:
            raise QueryError("--write and --remove exclude each other; give one.")
        if self.write:
            return "write"
        return "remove" if self.remove else None

    def run(
        self,
        vlm: VisualModel,
        image: str,
        word: str,
        bank: Bank,
        layers: Sequence[int],
        ablation: AblationOptions,
        prompt: str | None,
        act: Act,
    ) -> Writings:
        """Write or remove contexts of the word while progress is shown."""
        from latentbank.progress import shown
        from latentbank.query.causes.writing import write

        with shown("writing", "layers") as progress:
            return write(
                vlm,
                image,
                word,
                bank,
                layers,
                ablation.numbers() or [],
                act=act,
                bank_layer=self.context_layer,
                draws=ablation.draws,
                answer=ablation.answer,
                prompt=prompt,
                seed=ablation.seed,
                progress=progress,
            )


@dataclass(frozen=True, kw_only=True)
class SceneAblationOptions:
    """What is ablated and written on scenes."""

    layers: Annotated[
        str, typer.Option("--layers", help="Layers from which on tokens are ablated; none: nothing is.")
    ] = "0,4,8,12,16"
    write_layers: Annotated[
        str,
        typer.Option(
            "--write-layers", help="Layers at which contexts are written into tokens; none: nothing is."
        ),
    ] = "0,8,16"
    by: Annotated[str, typer.Option("--by", help="mean, image or attention; several with commas.")] = (
        "mean,image,attention"
    )
    draws: Annotated[int, typer.Option("--draws", min=1, help="Draws of each group that is drawn.")] = 1
    answer: Annotated[
        int, typer.Option("--answer", min=1, help="The model's answers have at most this many tokens.")
    ] = 24
    batch: Annotated[
        int, typer.Option("--batch", min=1, help="Copies of the sequence in one forward pass.")
    ] = 4
    scenes: Annotated[int, typer.Option("--scenes", help="Held-out scenes, at most 300.")] = 60
    calibration: Annotated[
        int, typer.Option("--calibration", help="Other scenes, whose visual tokens give the mean.")
    ] = 32
    coverage: Annotated[
        float,
        typer.Option(
            "--coverage",
            min=0.0,
            max=1.0,
            help="Share of a patch that a thing must cover to make it an object patch.",
        ),
    ] = 0.5

    def setups(self) -> tuple[CauseSetup, CauseSetup | None]:
        """Return what is ablated, and what is written; None: nothing is.

        Raises:
            QueryError: an option has no such value.
            LatentBankError: there are no other scenes.
        """
        from latentbank.query.causes.ablating import ways_of
        from latentbank.query.evaluation.experiments.causes import CauseSetup

        if self.layers == self.write_layers == "none":
            raise QueryError("Name layers to ablate from, or to write at.", argument="layers")
        if self.calibration < 1:
            raise QueryError("Other scenes give the mean; take one at least.", argument="calibration")
        ways = tuple(ways_of([name.strip() for name in self.by.split(",")]))
        setup = CauseSetup(
            () if self.layers == "none" else tuple(layer_numbers(self.layers)),
            ways,
            self.coverage,
            draws=self.draws,
            answer=self.answer,
            batch=self.batch,
        )
        if self.write_layers == "none":
            return setup, None
        return setup, replace(setup, layers=tuple(layer_numbers(self.write_layers)))

    def inputs(self, name: str, loading: LoadingOptions, settings: Settings) -> SceneInputs:
        """Load the whole VLM and make the scenes; see `SceneOptions.inputs`."""
        from latentbank.cli.options.scenes import SceneOptions

        options = SceneOptions(
            visual_layers=self.write_layers if self.layers == "none" else self.layers,
            scenes=self.scenes,
            calibration=self.calibration,
            coverage=self.coverage,
            random=False,
        )
        return options.inputs(name, loading, settings, bank_layers=lambda count: [count])
