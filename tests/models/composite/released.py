"""Stand-ins of the connectors that the authors of LatentLens released, and their models computed another way.

`Plain` is a forward pass from a connector's files and the encoder's weights, written from what the configuration means:
pixels by matrices of resampling weights, the encoder by sums and products, the projector, the order of the sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import yaml
from PIL import Image
from torch import Tensor
from torch.nn import functional

from latentbank.models.composite.connectors import CONFIG, WEIGHTS
from tests.models.vision.test_pictures import resized

SIDE, PATCH, GRID = 24, 6, 4
WIDTH, HEADS, INNER, BLOCKS = 16, 2, 24, 10
# Of each kind of encoder: its type in the configuration, its way to resize, the side that its positions are for, the
# blocks that it has, and those that are kept.
KINDS = {
    "clip": ("openai", "default", 24, BLOCKS + 1, BLOCKS),
    "dinov2": ("dino", "dino", 30, BLOCKS, BLOCKS),
    "siglip": ("siglip", "siglip", 26, BLOCKS, BLOCKS),
}


def save_encoder(path: Path, kind: str) -> str:
    """Write a tiny random encoder of as many blocks as the layers -2 and -9 need; it has no image processor."""
    torch.manual_seed(1)
    sizes: dict[str, Any] = {
        "hidden_size": WIDTH,
        "num_hidden_layers": KINDS[kind][3],
        "num_attention_heads": HEADS,
        "image_size": KINDS[kind][2],
        "patch_size": PATCH,
    }
    model: Any
    if kind == "dinov2":
        model = transformers.Dinov2Model(transformers.Dinov2Config(**sizes, mlp_ratio=2))
    else:
        prefix = {"clip": "CLIP", "siglip": "Siglip"}[kind]
        vision = getattr(transformers, f"{prefix}VisionConfig")(**sizes, intermediate_size=INNER)
        model = getattr(transformers, f"{prefix}VisionModel")(vision)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.5 if "embedding" in name or "token" in name else parameter.shape[-1] ** -0.5
            parameter.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, scale)
    model.save_pretrained(path)
    return str(path)


def save_connector(path: Path, kind: str, vocabulary: int, rows: int, hidden: int = 32) -> Path:
    """Write a connector's files with the names of the released ones, to an LLM of this width.

    Args:
        path: the folder.
        kind: of the encoder.
        vocabulary: number of tokens of the LLM's tokenizer.
        rows: rows of the LLM's embedding.
        hidden: width of the LLM.
    """
    path.mkdir(parents=True)
    torch.manual_seed(2)
    inner = 20
    weights = {
        "vision_backbone.image_projector.w1.weight": torch.randn(inner, 2 * WIDTH) * 0.1,
        "vision_backbone.image_projector.w2.weight": torch.randn(hidden, inner) * 0.3,
        "vision_backbone.image_projector.w3.weight": torch.randn(inner, 2 * WIDTH) * 0.1,
        "vision_backbone.pad_embed": torch.randn(2, 2 * WIDTH),
        "transformer.wte.new_embedding": torch.randn(128, hidden),
    }
    torch.save(weights, path / WEIGHTS)
    (path / CONFIG).write_text(yaml.safe_dump(config_of(kind, vocabulary, rows, 2 * inner, hidden)))
    return path


def config_of(kind: str, vocabulary: int, rows: int, inner: int, hidden: int) -> dict[str, Any]:
    """Return a configuration like the released ones."""
    name, resize, _, _, kept = KINDS[kind]
    vision = {
        "image_model_type": name,
        "image_default_input_size": [SIDE, SIDE],
        "image_patch_size": PATCH,
        "image_emb_dim": WIDTH,
        "image_num_layers": kept,
        "resize_mode": resize,
    }
    model = {
        "d_model": hidden,
        "mlp_ratio": 4,
        "mlp_hidden_size": inner,
        "activation_type": "swiglu",
        "vision_backbone": vision,
        "vit_load_path": "pretrained/tiny-vit.pt",
        "llm_load_path": "pretrained/tiny-llm.pt",
        "vocab_size": vocabulary,
        "embedding_size": rows,
        "additional_vocab_size": 128,
        "crop_mode": "resize",
        "use_col_tokens": True,
        "prompt_type": "none",
        "system_prompt_kind": "style_and_length",
        "message_formatting": "none",
        "always_start_with_space": True,
        "default_inference_len": 65,
        "pad_value": 0.0,
        "image_padding_embed": "pad_and_partial_pad",
        "vit_layers": [-2, -9],
        "image_pooling_h": 1,
        "image_pooling_w": 1,
        "image_pooling_2d": "none",
        "image_projector": "mlp",
        "normalize_input_embeds": False,
        "pad_tokenizer": True,
    }
    return {"model": model, "ft_llm": False, "ft_vit": False, "ft_connector": True}


@dataclass
class Plain:
    """A connector's model, computed from its files.

    Attributes:
        folder: the connector's.
        encoder: the encoder's folder.
        embedding: the LLM's input embedding, [rows, hidden].
        tokenizer: the LLM's.
    """

    folder: Path
    encoder: str
    embedding: Tensor
    tokenizer: Any

    def __post_init__(self) -> None:
        self.config = yaml.safe_load((self.folder / CONFIG).read_text())["model"]
        self.kind = self.config["vision_backbone"]["image_model_type"]
        self.weights = torch.load(self.folder / WEIGHTS, weights_only=True)
        model: Any = transformers.AutoModel.from_pretrained(self.encoder)
        state = getattr(model, "vision_model", model).state_dict()
        self.vision = {name.removeprefix("vision_model."): value for name, value in state.items()}

    def inputs(self, image: Image.Image) -> tuple[Tensor, list[int]]:
        """Return what enters the LLM, [length, hidden], and the positions of the visual tokens."""
        tokens = self.tokenizer
        start, end, patch, column = (self.config["vocab_size"] + number for number in range(4))
        begin = tokens.bos_token_id if tokens.bos_token_id is not None else tokens.eos_token_id
        rows = [token for _ in range(GRID) for token in [patch] * GRID + [column]]
        prompt = tokens("long_caption 65:", add_special_tokens=False)["input_ids"]
        ids = torch.tensor([begin, start, *rows, end, *prompt])
        table = torch.cat([self.embedding, self.weights["transformer.wte.new_embedding"]])
        inputs = table[ids]
        positions = (ids == patch).nonzero()[:, 0]
        inputs[positions] += self.project(image)
        return inputs, positions.tolist()

    def project(self, image: Image.Image) -> Tensor:
        """Return the projector's output, [patches, hidden]."""
        pixels, shown = self.pixels(image)
        outputs = self.encode(pixels)
        features = torch.cat([outputs[layer] for layer in self.config["vit_layers"]], dim=-1)
        pad = self.weights["vision_backbone.pad_embed"]
        shares = shown.reshape(GRID, PATCH, GRID, PATCH).mean(axis=(1, 3)).reshape(-1)
        for patch, share in enumerate(shares):
            if share < 1:
                features[patch] += pad[0] if share == 0 else pad[1]
        w1, w2, w3 = (self.weights[f"vision_backbone.image_projector.w{n}.weight"] for n in (1, 2, 3))
        gate = features @ w1.T
        return (gate * torch.sigmoid(gate) * (features @ w3.T)) @ w2.T

    def pixels(self, image: Image.Image) -> tuple[Tensor, np.ndarray]:
        """Return the encoder's input, [side, side, 3], and which of its pixels show the image, [side, side]."""
        shown = np.zeros((SIDE, SIDE))
        values = np.zeros((SIDE, SIDE, 3))
        if self.kind == "openai":
            scale = np.float32(SIDE) / np.float32(max(image.size))
            wide, high = (int(np.float32(side) * scale) for side in image.size)
            top, left = (SIDE - high) // 2, (SIDE - wide) // 2
            inside = np.s_[top : top + high, left : left + wide]
            values[inside] = resized(image, wide, high, "bilinear", True) / 255
            shown[inside] = 1
            mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
        else:
            kernel = ("bicubic", True) if self.kind == "dino" else ("bilinear", False)
            values = resized(image, SIDE, SIDE, *kernel).clip(0, 255).round() / 255
            shown[:] = 1
            imagenet = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
            mean, std = imagenet if self.kind == "dino" else ((0.5,) * 3, (0.5,) * 3)
        return torch.tensor((values - mean) / std, dtype=torch.float32), shown

    def encode(self, pixels: Tensor) -> list[Tensor]:
        """Return the outputs of the blocks that are kept, each [patches, width]."""
        weights, dino = self.vision, self.kind == "dino"
        patches = pixels.reshape(GRID, PATCH, GRID, PATCH, 3).permute(0, 2, 4, 1, 3).reshape(GRID * GRID, -1)
        stem = "embeddings.patch_embeddings.projection" if dino else "embeddings.patch_embedding"
        x = patches @ weights[f"{stem}.weight"].reshape(WIDTH, -1).T + weights.get(f"{stem}.bias", 0)
        if dino:
            x = torch.cat([weights["embeddings.cls_token"][0], x]) + self.dino_positions()
        elif self.kind == "openai":
            x = torch.cat([weights["embeddings.class_embedding"][None], x])
            x = self.norm(x + weights["embeddings.position_embedding.weight"], "pre_layrnorm", 1e-5)
        else:
            x = x + weights["embeddings.position_embedding.weight"]
        outputs = []
        for number in range(self.config["vision_backbone"]["image_num_layers"]):
            x = self.block(x, number)
            outputs.append(x[len(x) - GRID * GRID :])
        return outputs

    def block(self, x: Tensor, number: int) -> Tensor:
        """Return the output of a block."""
        weights, dino = self.vision, self.kind == "dino"
        prefix = f"encoder.layer.{number}." if dino else f"encoder.layers.{number}."
        eps = 1e-5 if self.kind == "openai" else 1e-6
        attention = "attention" if dino else "self_attn"
        y = self.norm(x, prefix + ("norm1" if dino else "layer_norm1"), eps)
        heads = [
            self.linear(y, f"{prefix}{attention}.{part}_proj").reshape(len(x), HEADS, -1).transpose(0, 1)
            for part in "qkv"
        ]
        looked = torch.softmax(heads[0] @ heads[1].mT / heads[0].shape[-1] ** 0.5, dim=-1) @ heads[2]
        out = "o_proj" if dino else "out_proj"
        y = self.linear(looked.transpose(0, 1).reshape(len(x), -1), f"{prefix}{attention}.{out}")
        x = x + y * (weights[f"{prefix}layer_scale1.lambda1"] if dino else 1)
        y = self.linear(self.norm(x, prefix + ("norm2" if dino else "layer_norm2"), eps), f"{prefix}mlp.fc1")
        if self.kind == "openai":
            y = y * torch.sigmoid(1.702 * y)
        else:
            y = functional.gelu(y, approximate="none" if dino else "tanh")
        y = self.linear(y, f"{prefix}mlp.fc2")
        return x + y * (weights[f"{prefix}layer_scale2.lambda1"] if dino else 1)

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.vision[f"{name}.weight"].T + self.vision[f"{name}.bias"]

    def norm(self, x: Tensor, name: str, eps: float) -> Tensor:
        x = (x - x.mean(dim=-1, keepdim=True)) / (x.var(dim=-1, unbiased=False, keepdim=True) + eps).sqrt()
        return x * self.vision[f"{name}.weight"] + self.vision[f"{name}.bias"]

    def dino_positions(self) -> Tensor:
        """Return the positions of the smaller grid, [1 + patches, width], as DINOv2's own code makes them."""
        old = self.vision["embeddings.position_embeddings"][0]
        side = round((len(old) - 1) ** 0.5)
        matrix = np.zeros((GRID, side))
        for row in range(GRID):
            centre = (row + 0.5) * side / (GRID + 0.1) - 0.5
            for place in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
                x, a = abs(place - centre), -0.75
                near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * (x**3 - 5 * x**2 + 8 * x - 4)
                matrix[row, min(max(place, 0), side - 1)] += near if x < 1 else far if x < 2 else 0.0
        grid = old[1:].reshape(side, side, -1).numpy()
        new = np.einsum("yr,xc,rcd->yxd", matrix, matrix, grid).reshape(GRID * GRID, -1)
        return torch.cat([old[:1], torch.tensor(new, dtype=torch.float32)])
