"""Vision encoders from Hugging Face for composite models: CLIP, SigLIP, DINOv2 and similar ones."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, PreTrainedModel

from latentbank.errors import LayerNotFound, ModelError
from latentbank.models.language.devices import choose_device, choose_dtype
from latentbank.models.language.explaining import plain_errors, quiet
from latentbank.models.language.fingerprint import fingerprint
from latentbank.models.language.layout import find_blocks, keep_blocks
from latentbank.models.language.loading import absolute
from latentbank.models.language.prepacked import prepack
from latentbank.models.vision.pictures import Pictures, fit_positions
from latentbank.models.vision.registry import LoadOptions, encoder_loader
from latentbank.text import listed
from latentbank.values import Layers, layers_of

# As in LLaVA: the last block of CLIP is trained for the CLS token, not for the patches.
DEFAULT_LAYER = -2


class Encoder(Protocol):
    """A vision encoder: turns images into features, one row for each token.

    Attributes:
        name: the name it was loaded by.
        features: width of a token.
        grid: rows and columns of tokens.
    """

    @property
    def name(self) -> str:
        """The name it was loaded by."""

    @property
    def features(self) -> int:
        """Width of a token."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""

    def fingerprint(self) -> str:
        """Return 32 hex digits, the same for the same weights, layer and preprocessing."""

    def settings(self) -> dict[str, Any]:
        """Return what is needed besides the name to load it again, such as its layer."""

    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        """Return the features of RGB images, [images, tokens, features] float32, row by row."""

    def boxes(self, size: tuple[int, int]) -> NDArray[np.float32]:
        """Return the boxes of the tokens in an image of `size` (width, height), [tokens, 4] in pixels."""


def load_encoder(
    name: str | os.PathLike[str],
    *,
    layer: Layers = DEFAULT_LAYER,
    cls: bool = False,
    pictures: Pictures | None = None,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Encoder:
    """Load a vision encoder.

    Args:
        name: a hub id or a directory with an image processor. Of a model of text and images (CLIP, SigLIP) only the
            vision part is kept. Or the name of an encoder of a family, such as the demo's `efficientnet-lite0`;
            these have no choice of layers and no CLS token.
        layer: the layer whose output is used: 0 is what enters the first block, l the output of block l, -1 that of the
            last block, -2 that of the block before it. Several layers' outputs are concatenated in this order.
        pictures: how images become the encoder's input; None: as its image processor does it.
        cls: whether the CLS token is kept, before the patches.
        device: by default `cuda` if there is a GPU.
        dtype: by default bfloat16 on a GPU and float32 on the CPU.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run the Python code that comes with the model. Only for authors you trust.

    Raises:
        ModelError: the encoder cannot be loaded, or its tokens are not square patches of one picture.
        LayerNotFound: the encoder has no such layer.
    """
    name = str(os.fspath(name))
    layers = layers_of(layer, "layer")
    if load := encoder_loader(name):  # which has no choice of layers or pictures
        return load(
            LoadOptions(device=device, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code)
        )
    where = choose_device(device)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if revision is not None:
        options["revision"] = revision
    name = absolute(name)
    with plain_errors(name), quiet():
        config = AutoConfig.from_pretrained(name, **options)
        config = getattr(config, "vision_config", config)
        processor = pictures if pictures else cast(Any, AutoImageProcessor).from_pretrained(name, **options)
        if not hasattr(config, "patch_size"):
            raise ModelError(
                f"{name} is not a vision encoder that cuts images into patches: use CLIP, SigLIP or DINOv2."
            )
        model, info = AutoModel.from_pretrained(
            name, config=config, dtype=choose_dtype(dtype, where), output_loading_info=True, **options
        )
    blocks = find_blocks(model)
    for one in layers:
        if not -len(blocks) <= one <= len(blocks):
            raise LayerNotFound(f"{name} has no layer {one}: it has layers 0 to {len(blocks)}.")
    depths = [one if one >= 0 else len(blocks) + 1 + one for one in layers]
    keep_blocks(model, max(1, *depths))
    lacking = sorted(
        key
        for key, _ in model.named_parameters()
        # What comes after the blocks is not used, and many checkpoints lack it.
        if key in info["missing_keys"] and not {"pooler", "head"} & set(key.split("."))
    )
    if lacking:
        raise ModelError(
            f"The checkpoint of {name} lacks {len(lacking)} of its weights, {lacking[0]} among them."
        )
    if pictures:
        fit_positions(model, pictures.size // config.patch_size)
    model.to(where).eval().requires_grad_(False)
    return TransformersEncoder(name, model, processor, depths, cls, getattr(config, "_commit_hash", None))


class TransformersEncoder:
    """A vision transformer cut after the deepest of the layers that are used.

    Attributes:
        name: the name it was loaded by; a path is absolute.
        layers: the layers whose outputs are used, counted from 0, in the order of their features.
        cls: whether the CLS token is the first of an image's tokens.
        revision: the commit on the hub, where known.
        features: width of a token: of all layers, and 2 for the marks of padding if the pictures are padded.
        grid: rows and columns of patches.
    """

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        processor: Any,
        layers: Sequence[int],
        cls: bool,
        revision: str | None = None,
    ) -> None:
        """Wrap a frozen model that has blocks up to its deepest layer, and its image processor or `Pictures`.

        Raises:
            ModelError: the model's output for an image is not a grid of patches, or it has no CLS token.
        """
        self.name, self.layers, self.cls, self.revision = name, tuple(layers), cls, revision
        self._model = model
        self._pictures = processor if isinstance(processor, Pictures) else None
        self._processor: Any = processor
        self._pads = self._pictures is not None and self._pictures.pads
        self._blocks = find_blocks(model)
        self._fingerprint = self._hash()
        prepack(model)
        pixels = self._pixels([Image.new("RGB", (64, 64))])
        patch = model.config.patch_size
        self._size: tuple[int, int] = (pixels.shape[-2], pixels.shape[-1])
        self.grid = (self._size[0] // patch, self._size[1] // patch)
        states = self._forward(pixels)
        self.features = int(states.shape[-1]) + 2 * self._pads
        # Tokens before the patches: a CLS token, registers, both or none.
        self._leading = states.shape[1] - self.grid[0] * self.grid[1]
        if states.dim() != 3 or self._leading < 0:
            raise ModelError(
                f"{name} makes {states.shape[1]} tokens of {self.grid[0]} x {self.grid[1]} patches: "
                "use an encoder with a token for each patch."
            )
        if cls and not self._leading:
            raise ModelError(f"{name} has no CLS token: load it without.", argument="cls")

    def __repr__(self) -> str:
        """Return name, layer and grid."""
        layers = listed(self.layers)
        return f"<TransformersEncoder {self.name}, layer {layers}, {self.grid[0]} x {self.grid[1]}>"

    def fingerprint(self) -> str:
        """Return 32 hex digits of the weights up to the layer, the preprocessing, and whether CLS is kept."""
        return self._fingerprint

    def settings(self) -> dict[str, Any]:
        """Return the arguments of `load_encoder`, besides the name, that load this encoder again."""
        layer = self.layers[0] if len(self.layers) == 1 else list(self.layers)
        pictures = {"pictures": self._pictures.to_dict()} if self._pictures else {}
        return {"layer": layer, "cls": self.cls, "revision": self.revision, **pictures}

    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        """Return the features of RGB images, [images, tokens, features] float32 on the encoder's device.

        The CLS token comes first if it is kept, then the patches row by row. If the pictures are padded, the last two
        features of a token say whether it is all padding and whether it is partly padding, as 0 or 1.
        """
        if not images:
            return torch.empty(0, self.cls + self.grid[0] * self.grid[1], self.features)
        pixels = self._pixels(images)
        if (pixels.shape[-2], pixels.shape[-1]) != self._size:
            raise ModelError(
                f"The image processor of {self.name} keeps an image's shape, so its grid is not fixed: set a square "
                "size, or a centre crop, in its files, or use another encoder."
            )
        states = self._forward(pixels).float()
        patches = states[:, self._leading :]
        kept = torch.cat([states[:, :1], patches], dim=1) if self.cls else patches
        return torch.cat([kept, self._marks(images).to(kept)], dim=2) if self._pads else kept

    def boxes(self, size: tuple[int, int]) -> NDArray[np.float32]:
        """Return left, top, right and bottom of each token, [tokens, 4] in pixels of an image of `size`.

        What the preprocessing crops is in no box. The box of the CLS token is all that remains.

        Args:
            size: width and height of the image.
        """
        left, top, right, bottom = self._visible_part(size)
        rows, columns = self.grid
        x = np.linspace(left, right, columns + 1)
        y = np.linspace(top, bottom, rows + 1)
        boxes = [(x[c], y[r], x[c + 1], y[r + 1]) for r in range(rows) for c in range(columns)]
        whole = [(left, top, right, bottom)] if self.cls else []
        found = np.array(whole + boxes, np.float32)
        # If a small image is padded, the padding is not part of it.
        found[:, 0::2] = found[:, 0::2].clip(0, size[0])
        found[:, 1::2] = found[:, 1::2].clip(0, size[1])
        return found

    def _visible_part(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return the part of the image that becomes the encoder's input; it may extend beyond the image."""
        if self._pictures:
            return self._pictures.visible_part(size)
        width, height = size
        scaled_w, scaled_h = float(width), float(height)
        settings = self._processor
        if getattr(settings, "do_resize", False):
            scaled_w, scaled_h = _resized(width, height, _plain(settings.size))
        high, wide = self._size
        across, down = width / scaled_w, height / scaled_h
        if getattr(settings, "do_center_crop", False):
            left, top = (scaled_w - wide) // 2, (scaled_h - high) // 2
        else:
            left, top = 0.0, 0.0
        return left * across, top * down, (left + wide) * across, (top + high) * down

    def _marks(self, images: Sequence[Image.Image]) -> Tensor:
        """Return what is padding, [images, tokens, 2]; the CLS token is not."""
        assert self._pictures is not None
        marks = [self._pictures.marks(image.size, self.grid) for image in images]
        return nn.functional.pad(torch.stack(marks), (0, 0, int(self.cls), 0))

    def _pixels(self, images: Sequence[Image.Image]) -> Tensor:
        if self._pictures:
            return self._pictures.pixels(images).to(self._model.device, self._model.dtype)
        with plain_errors(self.name):
            values = self._processor(images=list(images), return_tensors="pt")["pixel_values"]
        if values.dim() != 4:
            raise ModelError(
                f"The image processor of {self.name} cuts images into parts: use an encoder of whole images."
            )
        return cast(Tensor, values.to(self._model.device, self._model.dtype))

    @torch.inference_mode()
    def _forward(self, pixels: Tensor) -> Tensor:
        kept: dict[int, Tensor] = {}

        def entering(_block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            kept[0] = args[0] if args else kwargs["hidden_states"]

        def leaving(layer: int) -> Callable[..., None]:
            def keep(_block: Any, _args: tuple[Any, ...], output: Any) -> None:
                kept[layer] = output if isinstance(output, Tensor) else output[0]

            return keep

        handles = [
            self._blocks[layer - 1].register_forward_hook(leaving(layer))
            if layer
            else self._blocks[0].register_forward_pre_hook(entering, with_kwargs=True)
            for layer in self.layers
        ]
        try:
            self._model(pixel_values=pixels)
        except torch.OutOfMemoryError:
            raise ModelError(
                f"The memory of {pixels.device} is too small for {len(pixels)} images in {self.name}: "
                "encode fewer images at a time.",
                argument="batch",
            ) from None
        finally:
            for handle in handles:
                handle.remove()
        return torch.cat([kept[layer] for layer in self.layers], dim=-1)

    def _hash(self) -> str:
        own = fingerprint({}, [*self.layers, self.cls], self._model.parameters())
        settings = self._processor.to_dict()
        # Names and versions of classes do not change the pixels.
        plain = {
            key: settings[key]
            for key in sorted(settings)
            if self._pictures or key.startswith(("do_", "image_", "size", "crop"))
        }
        text = json.dumps(plain, sort_keys=True, default=str)
        return hashlib.blake2b(f"{own} {text}".encode(), digest_size=16).hexdigest()


def _resized(width: int, height: int, size: Mapping[str, int]) -> tuple[float, float]:
    """Return width and height after transformers' resizing."""
    if "height" in size and "width" in size:
        return size["width"], size["height"]
    if "shortest_edge" not in size or "longest_edge" in size:
        raise ModelError(
            f"An encoder that resizes images by {listed(size)} has no fixed grid: use another encoder."
        )
    short, long = sorted((width, height))
    new_long = int(size["shortest_edge"] * long / short)
    return (size["shortest_edge"], new_long) if width <= height else (new_long, size["shortest_edge"])


def _plain(size: Any) -> dict[str, int]:
    return {key: value for key, value in dict(size).items() if value is not None}
