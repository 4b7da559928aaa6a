"""The connectors of LatentLens' authors: their models equal a forward pass written from their configuration."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from latentbank.errors import ModelError
from latentbank.models.composite.connectors import (
    CONFIG,
    RESULT,
    WEIGHTS,
    Found,
    find_connector,
    import_connector,
)
from latentbank.models.composite.model import CompositeVLM
from latentbank.models.composite.projector import load_projector
from latentbank.models.composite.released import read_config
from latentbank.models.visual import load_visual_model
from tests.hub import Stored, serving, use
from tests.models.composite.released import Plain, config_of, save_connector, save_encoder
from tests.models.vision.test_encoders import noise
from tests.tiny import save_tiny, tiny_tokenizer

# Each encoder with an LLM of one of the three kinds: more rows than tokens (OLMo), a BOS (Llama), neither (Qwen2).
PAIRS = {"clip": ("olmo2", False, 9), "dinov2": ("llama", True, 0), "siglip": ("qwen2", False, 0)}


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Plain]]:
    """Return the projector's file of a connector with an encoder of a kind, and its model computed another way."""
    made: dict[str, tuple[Path, Plain]] = {}

    def write(kind: str) -> tuple[Path, Plain]:
        if kind not in made:
            root = tmp_path_factory.mktemp(kind)
            architecture, bos, more = PAIRS[kind]
            tokenizer = tiny_tokenizer(bos)
            rows = len(tokenizer) + more
            encoder = save_encoder(root / "encoder", kind)
            llm = save_tiny(root / "llm", architecture, bos, vocab_size=rows)
            folder = save_connector(root / "connector", kind, len(tokenizer), rows)
            file = import_connector(
                folder, root / "made", vision=encoder, llm=str(llm), data_dir=root / "data"
            )
            from safetensors.torch import load_file

            embedding = load_file(llm / "model.safetensors")["model.embed_tokens.weight"]
            made[kind] = (file, Plain(folder, encoder, embedding, tokenizer))
        return made[kind]

    return write


def model_of(file: Path) -> CompositeVLM:
    model = load_visual_model(file, device="cpu", dtype="float32", data_dir=file.parent.parent / "data")
    assert isinstance(model, CompositeVLM)
    return model


def unlike(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest 1 - cosine of two lists of vectors whose lengths are the same."""
    torch.testing.assert_close(one.norm(dim=-1), other.norm(dim=-1), rtol=1e-4, atol=1e-5)
    return 1 - float(torch.cosine_similarity(one.double(), other.double(), dim=-1).min())


@pytest.mark.parametrize("kind", PAIRS)
# Whole numbers of eighths of a pixel: no value of a squeezed picture lies between two that it could be rounded to.
@pytest.mark.parametrize("size", [(60, 24), (24, 24), (12, 48)])
def test_what_enters_the_llm_is_what_the_configuration_means(
    imported: Callable[[str], tuple[Path, Plain]], kind: str, size: tuple[int, int]
) -> None:
    file, plain = imported(kind)
    model, image = model_of(file), noise(*size)
    expected, positions = plain.inputs(image)
    found = model.tokens_with_text(image, (0, 2))
    assert found.text is not None
    assert found.positions is not None
    seen = found.positions.tolist()
    assert set(seen) <= set(positions)
    if kind != "clip" or size[0] == size[1]:
        assert seen == positions
    else:  # those that show only padding are no visual tokens of the image, but enter the LLM
        assert 0 < len(seen) < len(positions)
    whole = torch.full_like(expected, float("nan"))
    whole[seen] = found.states[0]
    whole[found.text.positions] = found.text.states[0]
    whole[positions] = model.project([image])[0]
    assert unlike(whole, expected) < 1e-5
    with torch.no_grad():
        deep = model.language.decoder(inputs_embeds=expected[None], output_hidden_states=True).hidden_states
    assert unlike(found.states[2], deep[2][0, seen]) < 1e-5


PAPERS = {
    "olmo-vit": ("clip", "vit-l-14-336", "olmo-1024-preview", (23, 336, 1024), (22, 15)),
    "llama-dino": ("dinov2", "dinov2-large-336", "llama3-8b", (24, 336, 1024), (23, 16)),
    "qwen-siglip": ("siglip", "siglip-so400m-14-384", "qwen2-7b", (27, 378, 1152), (26, 19)),
}


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_configurations(name: str, tmp_path: Path) -> None:
    """Encoders, LLMs and layers of the paper, and OLMo's image tokens among the LLM's own rows."""
    kind, vision, llm, (kept, side, width), layers = PAPERS[name]
    vocabulary, rows = (100278, 100352) if name == "olmo-vit" else (128256, 128256)
    config = config_of(kind, vocabulary, rows, 22016, 4096)
    config["model"] |= {
        "vit_load_path": f"${{oc.env:MOLMO_DATA_DIR}}/pretrained_image_encoders/{vision}.pt",
        "llm_load_path": f"/scratch/pretrained_llms/{llm}.pt",
    }
    config["model"]["vision_backbone"] |= {
        "image_num_layers": kept,
        "image_default_input_size": [side, side],
        "image_emb_dim": width,
        "image_patch_size": 14,
    }
    (tmp_path / CONFIG).write_text(yaml.safe_dump(config))
    released = read_config(tmp_path / CONFIG)
    assert (released.layers, released.width, released.prompt) == (layers, 11008, "long_caption 65:")
    assert released.pictures.size == side
    assert released.pictures.pads == (kind == "clip")
    assert released.vision in {
        "openai/clip-vit-large-patch14-336",
        "facebook/dinov2-large",
        "google/siglip-so400m-patch14-384",
    }
    assert released.llm.split("/")[0] == {"o": "allenai", "l": "meta-llama", "q": "Qwen"}[name[0]]
    tokens = released.tokens
    assert (tokens.start, tokens.end, tokens.patch, tokens.column) == tuple(vocabulary + n for n in range(4))
    assert (tokens.column < tokens.first_added) == (name == "olmo-vit")


def test_the_file_holds_the_released_weights_and_a_card_without_paths(
    imported: Callable[[str], tuple[Path, Plain]],
) -> None:
    for kind in ("clip", "siglip"):
        file, plain = imported(kind)
        projector, card = load_projector(file)
        released = plain.weights
        assert torch.equal(
            projector.layers.gate.weight, released["vision_backbone.image_projector.w1.weight"]
        )
        assert torch.equal(projector.added, released["transformer.wte.new_embedding"])
        assert (projector.pad is None) == (kind == "siglip")  # where nothing is ever padded
        assert (card["connector"], card["prompt"]) == ("connector", "long_caption 65:")
        assert card["encoder"]["layer"] == [9, 2]
        assert str(file.parent.parent) not in file.with_suffix(".json").read_text()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"crop_mode": "overlap-and-resize-c2"}, "has the crop_mode overlap-and-resize-c2, but only"),
        ({"image_projector": "linear"}, "image_projector linear"),
        ({"image_padding_embed": None}, "image_padding_embed None"),
        ({"activation_type": "gelu"}, "with swiglu, llama_swiglu are read"),
        ({"vit_load_path": "pretrained/other.pt"}, "none of the paper's models as its encoder"),
        ({"d_model": 31}, "do not have the sizes"),
        ({"vocab_size": None}, "not the configuration of a connector of LatentLens"),
    ],
)
def test_other_models_are_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    folder = save_connector(tmp_path / "connector", "clip", 90, 90)
    config = yaml.safe_load((folder / CONFIG).read_text())
    paths = {"vit_load_path": "vit-l-14-336.pt", "llm_load_path": "olmo-1024-preview.pt"}
    config["model"] |= paths | changed
    (folder / CONFIG).write_text(yaml.safe_dump(config))
    with pytest.raises(ModelError, match=message):
        import_connector(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_of_more_than_tensors_is_not_unpickled(tmp_path: Path) -> None:
    folder = save_connector(tmp_path / "connector", "clip", 90, 90)
    names = {"vision": "openai/clip-vit-large-patch14-336", "llm": "Qwen/Qwen2-7B"}
    whole = torch.load(folder / WEIGHTS, weights_only=True)
    torch.save({**whole, "more": Path("x")}, folder / WEIGHTS)
    with pytest.raises(ModelError, match="more than tensors"):
        import_connector(folder, tmp_path / "out", **names)
    torch.save({**whole, "vision_backbone.cls_projector": torch.zeros(1)}, folder / WEIGHTS)
    with pytest.raises(ModelError, match=r"has the weights vision_backbone\.cls_projector"):
        import_connector(folder, tmp_path / "out", **names)
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:500])
    with pytest.raises(ModelError, match="damaged"):
        import_connector(folder, tmp_path / "out", **names)
    config = yaml.safe_load((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(yaml.safe_dump({**config, "ft_llm": True}))
    with pytest.raises(ModelError, match=r"LLM of .* was trained too"):
        import_connector(folder, tmp_path / "out", **names)


def test_another_projector_is_not_replaced(
    tmp_path: Path, imported: Callable[[str], tuple[Path, Plain]]
) -> None:
    file, _ = imported("clip")
    shutil.copy(file, tmp_path / RESULT)
    folder = save_connector(tmp_path / "olmo-vit", "clip", 90, 90)
    names = {"vision": "openai/clip-vit-large-patch14-336", "llm": "Qwen/Qwen2-7B"}
    with pytest.raises(ModelError, match="is another projector") as refused:
        import_connector(folder, tmp_path, **names)
    assert refused.value.argument == "output"
    first = import_connector(folder, tmp_path / "out", **names)
    assert import_connector(folder, tmp_path / "out", **names) == first


def test_the_folder_of_a_connector(tmp_path: Path) -> None:
    for name in ("olmo-vit", "qwen-dino"):
        save_connector(tmp_path / "all" / name, "clip", 90, 90)
    one, every = str(tmp_path / "all" / "olmo-vit"), str(tmp_path / "all")
    assert find_connector(one) == Found(Path(one), "olmo-vit", "olmo-vit")
    assert find_connector(every, "qwen-dino").folder == Path(every) / "qwen-dino"
    with pytest.raises(ModelError, match="holds the connectors olmo-vit, qwen-dino: name one") as several:
        find_connector(every)
    assert several.value.argument == "name"
    with pytest.raises(ModelError, match="qwen-dino, not llama-vit"):
        find_connector(every, "llama-vit")
    with pytest.raises(ModelError, match="holds no connector"):
        find_connector(str(tmp_path))
    with pytest.raises(ModelError, match="There is no folder"):
        find_connector(str(tmp_path / "nothing"))


def test_only_the_connector_that_is_named_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_connector(tmp_path / "connector", "clip", 90, 90)
    files = {
        f"{name}/{file}": (folder / file).read_bytes()
        for name in ("olmo-vit", "qwen-dino")
        for file in (WEIGHTS, CONFIG)
    }
    with serving() as hub:
        use(hub, tmp_path / "hf", monkeypatch, token=None)
        stored = hub.repositories[("models", "lab/connectors")] = Stored()
        commit = stored.commit(files)
        found = find_connector("lab/connectors", "qwen-dino")
        assert (found.name, found.source) == ("qwen-dino", f"lab/connectors@{commit}, qwen-dino")
        assert sorted(hub.files()) == [f"qwen-dino/{CONFIG}", f"qwen-dino/{WEIGHTS}"]
        with pytest.raises(ModelError, match="lab/connectors holds the connectors olmo-vit, qwen-dino"):
            find_connector("lab/connectors")
        alone = hub.repositories[("models", "lab/mine")] = Stored()
        commit = alone.commit({file: (folder / file).read_bytes() for file in (WEIGHTS, CONFIG)})
        mine = find_connector("lab/mine")
        assert (mine.name, mine.source) == ("mine", f"lab/mine@{commit}")
        assert sorted(path.name for path in mine.folder.iterdir()) == sorted([CONFIG, WEIGHTS])
    made = import_connector(
        found.folder,
        tmp_path / "out",
        source=found.source,
        vision="openai/clip-vit-large-patch14-336",
        llm="Qwen/Qwen2-7B",
    )
    assert load_projector(made)[1]["connector"] == found.source
