"""Digests of LLMs: one of each block, equal for every dtype, quantization and depth that a checkpoint is loaded in."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer, BitsAndBytesConfig

from latentbank.identity import Digest, Digests, Identity, completed, difference
from latentbank.models.language.fingerprint import fingerprint
from latentbank.models.language.model import LanguageModel, load_language_model
from tests.tiny import save_tiny

DTYPES = ("float32", "bfloat16", "float16")
# Whole blocks of bitsandbytes' 64 weights in each row, and rows that share one.
SIZES = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 3}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in float32, which float16 rounds."""
    return save_tiny(tmp_path_factory.mktemp("checkpoint"), **SIZES)


@pytest.fixture(scope="module")
def plain(checkpoint: Path) -> dict[str, Identity]:
    return {dtype: load_language_model(checkpoint, dtype=dtype).identity() for dtype in DTYPES}


def quantized(checkpoint: Path, dtype: torch.dtype = torch.float32, **config: object) -> Identity:
    """The identity of a checkpoint that bitsandbytes has quantized, after a first forward pass."""
    made = BitsAndBytesConfig(**config)  # type: ignore[no-untyped-call]
    decoder = AutoModel.from_pretrained(checkpoint, quantization_config=made, dtype=dtype, device_map="cpu")
    model = LanguageModel(str(checkpoint), decoder, AutoTokenizer.from_pretrained(checkpoint), num_layers=3)
    return model.identity()


def changed(checkpoint: Path, folder: Path, weight: str, change: Callable[[torch.Tensor], None]) -> Path:
    """A copy of a checkpoint with one weight changed in place."""
    for file in checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    change(weights[weight])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_every_dtype_of_a_checkpoint_is_one_model(plain: dict[str, Identity]) -> None:
    for one, other in itertools.product(plain.values(), repeat=2):
        assert difference(one, other) is None
    # In float16 the fingerprints of earlier versions differ: this checkpoint is stored in float32.
    assert plain["float32"].fingerprint == plain["bfloat16"].fingerprint != plain["float16"].fingerprint
    assert [plain[dtype].dtype for dtype in DTYPES] == list(DTYPES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"load_in_8bit": True}, "8bit"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "4bit"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}, "4bit"),
    ],
    ids=["8bit", "4bit", "4bit-double"],
)
def test_quantizations_of_a_checkpoint_are_the_same_model(
    checkpoint: Path,
    plain: dict[str, Identity],
    config: dict[str, object],
    name: str,
    dtype: torch.dtype,
    tmp_path: Path,
) -> None:
    found = quantized(checkpoint, dtype, **config)
    assert found.dtype == name
    assert found.digests is not None
    assert all(block is not None and not block.exact for block in found.digests.blocks)
    for other in plain.values():
        assert difference(found, other) is None
    another = save_tiny(tmp_path, seed=1, **SIZES)
    assert difference(found, load_language_model(another).identity()) == "the input embedding"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "weight", ["mlp.down_proj.weight", "self_attn.q_proj.weight", "input_layernorm.weight"]
)
def test_a_fine_tune_of_a_later_block_is_another_model(
    checkpoint: Path, plain: dict[str, Identity], weight: str, dtype: str, tmp_path: Path
) -> None:
    def tune(values: torch.Tensor) -> None:
        values.mul_(1 + 0.02 * torch.randn(values.shape, generator=torch.Generator().manual_seed(0)))

    folder = changed(checkpoint, tmp_path, f"model.layers.1.{weight}", tune)
    tuned = load_language_model(folder, dtype=dtype).identity()
    assert difference(plain["bfloat16"], tuned) == "block 2"
    # Contexts of layer 1 do not depend on the second block, and a model that is cut there has none.
    assert difference(plain["bfloat16"], tuned, deepest=1) is None
    assert difference(plain["bfloat16"], load_language_model(folder, deepest_layer=1).identity()) is None
    assert tuned.up_to(1) == load_language_model(folder, dtype=dtype, deepest_layer=1).identity().up_to(1)
    if dtype == "bfloat16":  # what the fingerprint of earlier versions does not tell
        assert tuned.fingerprint == plain["bfloat16"].fingerprint


def test_a_small_fine_tune_of_one_matrix_is_told_from_its_quantized_origin(
    checkpoint: Path, tmp_path: Path
) -> None:
    def tune(values: torch.Tensor) -> None:
        values.mul_(1 + 0.02 * torch.randn(values.shape, generator=torch.Generator().manual_seed(0)))

    folder = changed(checkpoint, tmp_path, "model.layers.2.mlp.up_proj.weight", tune)
    whole = load_language_model(folder).identity()
    for config in ({"load_in_8bit": True}, {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}):
        assert difference(quantized(checkpoint, **config), whole) == "block 3"


def test_order_and_sharing_of_weights_do_not_count_but_vocabulary_and_sizes_do(
    checkpoint: Path, plain: dict[str, Identity], tmp_path: Path
) -> None:
    deeper = save_tiny(tmp_path, **{**SIZES, "num_hidden_layers": 4})
    assert (
        difference(plain["float32"], load_language_model(deeper).identity()) == "the vocabulary or the sizes"
    )
    again = load_language_model(checkpoint, dtype="float32").identity()
    assert again == plain["float32"]


def test_offloaded_weights_have_the_digests_of_the_checkpoint(
    checkpoint: Path, plain: dict[str, Identity], tmp_path: Path
) -> None:
    places = {
        "embed_tokens": "cpu",
        "layers.0": "cpu",
        "layers.1": "disk",
        "layers.2": "disk",
        "norm": "disk",
    }
    decoder = AutoModel.from_pretrained(
        checkpoint,
        dtype=torch.float32,
        device_map={**places, "rotary_emb": "cpu"},
        offload_folder=tmp_path / "offloaded",
    )
    assert decoder.layers[2].mlp.up_proj.weight.is_meta
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    identity = LanguageModel(str(checkpoint), decoder, tokenizer, num_layers=3).identity()
    assert identity == plain["float32"]
    # The weights are where they were.
    assert decoder.layers[2].mlp.up_proj.weight.is_meta


def test_weights_that_nothing_loads_have_no_digest(checkpoint: Path, plain: dict[str, Identity]) -> None:
    model = load_language_model(checkpoint, dtype="bfloat16")
    model.decoder.layers[1].to("meta")
    digests = model.identity().digests
    assert digests is not None
    assert [block is None for block in digests.blocks] == [False, True, False]
    assert difference(model.identity(), plain["float32"]) is None
    assert completed(model.identity(), plain["bfloat16"]).digests == plain["bfloat16"].digests


def test_digests_are_written_and_read(plain: dict[str, Identity]) -> None:
    for identity in plain.values():
        assert identity.digests is not None
        assert Digests.from_dict(json.loads(json.dumps(identity.digests.to_dict()))) == identity.digests


def test_a_part_is_completed_by_the_whole(checkpoint: Path, plain: dict[str, Identity]) -> None:
    whole = plain["float32"]
    part = load_language_model(checkpoint, dtype="float32", deepest_layer=1).identity()
    assert part.digests is not None
    assert len(part.digests.blocks) == 1
    assert completed(part, whole) == completed(whole, part) == whole
    old = Identity(whole.fingerprint)
    assert completed(old, part) == part
    assert completed(part, old) == part


def test_an_identity_without_digests_is_compared_by_its_fingerprint(plain: dict[str, Identity]) -> None:
    whole = plain["float32"]
    assert difference(Identity(whole.fingerprint), whole) is None
    assert difference(whole, Identity("beef")) == "their fingerprints"
    assert difference(Identity(whole.fingerprint), plain["float16"]) == "their fingerprints"


def test_sketches_of_other_lengths_differ() -> None:
    one, other = (
        Digest("", "ADw=", 0.1),
        Digest("", "ADwAPA==", 0.1),
    )
    assert not one.agrees(other)
    assert one.agrees(Digest("0" * 16, "ADw=", 0.1))


def test_fingerprints_are_those_of_earlier_versions() -> None:
    """Banks and files have them; they were computed by the version before there were digests."""
    weights = [torch.arange(-3000, 3000).reshape(60, 100) / 7, torch.tensor([1e-9, -0.0, 2.5])]
    assert fingerprint({"a": 0, "é\ud800": 1}, [2, 3], weights) == "231d917dd31f4a4d520a71ed278efc32"
