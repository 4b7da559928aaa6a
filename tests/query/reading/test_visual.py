"""Readings of images: every visual token at each layer, through all lenses, in few large searches."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from latentbank.bank.bank import Bank
from latentbank.bank.points import Neighbor
from latentbank.bank.rotation import unit
from latentbank.bank.where import Where
from latentbank.errors import BankMismatch, ImageError, LayerNotFound, ModelError, QueryError
from latentbank.models.language.model import LanguageModel, load_language_model
from latentbank.models.vision.sources import find_images
from latentbank.query.lenses.base import Lens, LensOptions, Queries
from latentbank.query.lenses.centring import means_of
from latentbank.query.lenses.embedding import EmbeddingLens
from latentbank.query.lenses.latent import LatentLens
from latentbank.query.output.grids import grid_lines, shorten
from latentbank.query.output.pictures import draw_reading, png_bytes, save_reading
from latentbank.query.reading.reading import Reading
from latentbank.query.reading.text import read_hidden, read_text
from latentbank.query.reading.visual import (
    default_visual_layers,
    join_layers,
    read_image,
    read_images,
    read_layers,
)
from tests.query.banks import ONE_CORPUS, fill
from tests.query.patch_vlm import GRID, PatchVLM, picture
from tests.query.searches import record_candidates
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def vlm(tiny: LanguageModel) -> PatchVLM:
    return PatchVLM(tiny)


class Counting(Lens, register=False):
    """A lens that keeps the queries it receives and answers with numbered words."""

    name = "counting"
    title = "Counting"
    score = "cosine"

    def __init__(self) -> None:
        self.received: list[Queries] = []

    @classmethod
    def make(cls, options: LensOptions) -> Counting:
        return cls()

    def read(self, queries: Queries, top_k: int = 5) -> list[list[Neighbor]]:
        self.received.append(queries)
        start = sum(map(len, self.received[:-1]))
        return [[Neighbor(f"w{start + i}", f" w{start + i}", 0.5)] * top_k for i in range(len(queries))]


def test_a_reading_holds_every_token_at_every_layer(bank: Bank, vlm: PatchVLM) -> None:
    image = picture()
    reading = read_image(bank, vlm, image, [0, 2, 3], bank_layers="all", top_k=3)
    assert (reading.bank, reading.model, reading.lens) == ("small", "patch-vlm", "latent")
    assert (reading.layers, reading.bank_layers) == ((0, 2, 3), tuple(bank.layers))
    assert (reading.size, reading.geometry) == ((30, 20), "exact, 2 x 3 patches")
    (tokens,) = vlm.visual_tokens([image], [0, 2, 3])
    for layer in (0, 2, 3):
        own = reading.at(layer)
        assert [token.index for token in own] == list(range(6))
        assert [(t.place.row, t.place.column) for t in own if t.place] == [
            (r, c) for r in (0, 1) for c in (0, 1, 2)
        ]
        assert [t.place.box for t in own if t.place] == [tuple(box) for box in tokens.boxes.tolist()]
        assert [t.norm for t in own] == pytest.approx(tokens.norms(layer).tolist())
        plain = bank.search(tokens.states[layer].numpy(), "all", 3, visual_layer=layer)
        assert [[n.id for n in t.neighbors] for t in own] == [[n.id for n in row] for row in plain]


def test_an_image_reads_like_its_hidden_states(bank: Bank, vlm: PatchVLM) -> None:
    """The lens gets the VLM's hidden states unchanged: `read_hidden` finds the same neighbors."""
    image = picture(3)
    (tokens,) = vlm.visual_tokens([image], [1])
    asked: Any = {"where": Where(corpus="first"), "unique": "word", "top_k": 4, "search": "exact"}
    reading = read_image(bank, vlm, image, 1, **asked)
    plain = read_hidden(bank, tokens.states[1], **asked)
    assert [t.neighbors for t in reading.tokens] == [t.neighbors for t in plain.tokens]
    assert {n.corpus for t in reading.tokens for n in t.neighbors} == {"first"}


def test_an_image_of_words_is_read_as_them(bank: Bank, tiny: LanguageModel) -> None:
    """Patches with the hidden states of a stored sentence are read as its words, each in its place."""
    sentence = "The dog chased a cat in the garden."
    states = tiny.text_hidden_states(sentence, [2])[1][2][2:8]

    class Echo(PatchVLM):
        def visual_tokens(self, images: Sequence[Image.Image], layers: Any, prompt: Any = None) -> Any:
            from latentbank.models.vision.tokens import VisualTokens

            return [VisualTokens({2: states}, **self._places(image.size)) for image in images]

    reading = read_image(bank, Echo(tiny), picture(), 2, bank_layers=2, top_k=1, exact=True)
    text = read_text(bank, tiny, sentence, 2, bank_layers=2, top_k=1, exact=True)
    expected = [token.neighbors[0].word for token in text.tokens if 2 <= token.index < 8]
    assert reading.grid(2) == [expected[:3], expected[3:]]
    assert all(token.neighbors[0].cosine > 0.999 for token in reading.tokens)


def test_all_visual_layers_of_several_images_are_one_search(
    bank: Bank, vlm: PatchVLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    search = Bank.search

    def counted(self: Bank, queries: Any, *args: Any, **given: Any) -> list[list[Neighbor]]:
        sizes.append(len(queries))
        return search(self, queries, *args, **given)

    monkeypatch.setattr(Bank, "search", counted)
    vlm.calls.clear()
    images = [picture(seed, (30 + seed, 20)) for seed in range(5)]
    readings = list(read_images(vlm, images, [LatentLens(bank)], [0, 1, 4], batch=2))
    assert vlm.calls == [2, 2, 1]
    assert sizes == [2 * 6 * 3, 2 * 6 * 3, 6 * 3]
    for image, reading in zip(images, readings, strict=True):
        alone = read_image(bank, vlm, image, [0, 1, 4])
        assert reading.size == image.size
        assert [[n.id for n in t.neighbors] for t in reading.tokens] == [
            [n.id for n in t.neighbors] for t in alone.tokens
        ]


def test_layer_by_layer_gives_what_all_at_once_gives(bank: Bank, vlm: PatchVLM) -> None:
    lenses = [LatentLens(bank), EmbeddingLens(vlm.language.embedding, vlm.language.tokenizer)]
    before = len(vlm.calls)
    parts = list(read_layers(vlm, picture(), lenses, [2, 0, 2, 1], top_k=3))
    assert [part.layers for part in parts] == [(2,), (0,), (1,)]
    assert vlm.calls[before:] == [1]
    (whole,) = read_images(vlm, [picture()], lenses, [2, 0, 1], top_k=3)
    assert join_layers(parts) == whole
    with pytest.raises(QueryError, match="at least one visual layer"):
        read_layers(vlm, picture(), lenses, [])


def test_lenses_get_the_same_states_and_stand_beside_each_other(
    bank: Bank, vlm: PatchVLM, tiny: LanguageModel
) -> None:
    counting, images = Counting(), [picture(1), picture(2)]
    lenses = [LatentLens(bank, "all"), EmbeddingLens(tiny.embedding, tiny.tokenizer), counting]
    first, second = read_images(vlm, images, lenses, [1, 3], top_k=2)
    assert first.lenses == ("latent", "embedding", "counting")
    assert first.lens == "latent,embedding,counting"
    assert len(first.tokens) == 3 * 2 * 6
    tokens = vlm.visual_tokens(images, [1, 3])
    assert [(queries.layer, queries.kind, queries.mean) for queries in counting.received] == [
        (1, "visual", None),
        (3, "visual", None),
    ]
    for queries, layer in zip(counting.received, (1, 3), strict=True):
        assert np.array_equal(queries.states, torch.cat([t.states[layer] for t in tokens]).numpy())
    words = [
        t.neighbors[0].word for layer in (1, 3) for r in (first, second) for t in r.at(layer, "counting")
    ]
    assert words == [f"w{i}" for i in range(24)]
    assert {t.lens for t in first.at(1)} == {"latent"}
    with pytest.raises(QueryError, match="no lens logit; it has latent, embedding, counting"):
        first.at(1, "logit")
    with pytest.raises(LayerNotFound, match="no layer 2; it has 1, 3"):
        first.at(2)


def test_without_a_bank(vlm: PatchVLM, tiny: LanguageModel) -> None:
    (reading,) = read_images(vlm, [picture()], [EmbeddingLens(tiny.embedding, tiny.tokenizer)], [0])
    assert (reading.bank, reading.bank_layers) == ("", ())
    assert "against" not in reading.title()


def test_layers_when_none_are_named(bank: Bank, vlm: PatchVLM) -> None:
    assert default_visual_layers(32) == [0, 4, 8, 16]
    assert default_visual_layers(30) == [0, 4, 8, 15]
    assert default_visual_layers(1) == [0, 1]
    assert read_image(bank, vlm, picture()).layers == (0, 1, 2)


def test_a_prompt_reaches_the_model_and_the_reading(bank: Bank, vlm: PatchVLM) -> None:
    reading = read_image(bank, vlm, picture(), 0, prompt="What is this?")
    assert vlm.prompts[-1] == reading.prompt == "What is this?"
    assert read_image(bank, vlm, picture(), 0).prompt is None


# --- errors ----------------------------------------------------------------------------


def test_a_vlm_with_another_backbone_is_refused_before_anything_runs(bank: Bank, tmp_path: Path) -> None:
    other = PatchVLM(load_language_model(str(save_tiny(tmp_path / "other", seed=7))))
    with pytest.raises(BankMismatch, match=r"(?s)llama-tiny.*patch-vlm"):
        read_image(bank, other, picture())
    with pytest.raises(BankMismatch):
        read_images(other, [picture()], [LatentLens(bank)], [0])
    assert other.calls == []


def test_wrong_choices_are_refused_at_once(bank: Bank, vlm: PatchVLM) -> None:
    lens = LatentLens(bank)
    with pytest.raises(QueryError, match="at least one lens"):
        read_images(vlm, [picture()], [], [0])
    with pytest.raises(QueryError, match="at least one visual layer"):
        read_images(vlm, [picture()], [lens], [])
    with pytest.raises(QueryError, match="same name"):
        read_images(vlm, [picture()], [lens, LatentLens(bank, "all")], [0])
    with pytest.raises(QueryError, match="batch is 0; it must be 1 or more"):
        read_images(vlm, [picture()], [lens], [0], batch=0)
    with pytest.raises(LayerNotFound, match="no layer 9"):
        read_images(vlm, [picture()], [LatentLens(bank, 9)], [0])
    with pytest.raises(LayerNotFound, match="no layer 5"):
        read_image(bank, vlm, picture(), 5)


def test_a_broken_image_stops_or_is_skipped(bank: Bank, vlm: PatchVLM, tmp_path: Path) -> None:
    good, cut = tmp_path / "good.png", tmp_path / "cut.png"
    picture().save(good)
    cut.write_bytes(good.read_bytes()[:100])
    images = [good, cut, good.read_bytes(), picture()]
    with pytest.raises(ImageError, match=r"cut\.png cannot be read"):
        list(read_images(vlm, images, [LatentLens(bank)], [0]))
    skipped: list[tuple[str, str]] = []
    readings = list(
        read_images(
            vlm, images, [LatentLens(bank)], [0], broken=lambda name, e: skipped.append((name, str(e)))
        )
    )
    assert [name for name, _ in skipped] == [str(cut)]
    assert [r.source for r in readings] == [str(good), "image 2", "image 3"]


def test_an_image_that_the_model_refuses_does_not_fail_its_batch(
    bank: Bank, vlm: PatchVLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = PatchVLM.visual_tokens

    def choosy(self: PatchVLM, images: Any, layers: Any, prompt: str | None = None) -> Any:
        if any(image.width == 300 for image in images):
            raise ImageError("The image has 300 x 1 pixels: cut it.")
        return original(self, images, layers, prompt)

    monkeypatch.setattr(PatchVLM, "visual_tokens", choosy)
    images = [picture(), Image.new("RGB", (300, 1)), picture()]
    reported: list[tuple[str, str]] = []
    readings = list(
        read_images(
            vlm, images, [LatentLens(bank)], [0], broken=lambda name, e: reported.append((name, str(e)))
        )
    )
    assert [reading.source for reading in readings] == ["image 0", "image 2"]
    assert reported == [("image 1", "image 1: The image has 300 x 1 pixels: cut it.")]
    with pytest.raises(ImageError, match="image 1: The image has 300 x 1"):
        list(read_images(vlm, images, [LatentLens(bank)], [0]))


def test_states_that_overflow_name_layer_image_and_dtype(bank: Bank, tiny: LanguageModel) -> None:
    with pytest.raises(
        ModelError, match="Layer 0 of patch-vlm gives visual tokens of image 0 that are not finite"
    ):
        read_image(bank, PatchVLM(tiny, gain=1e39), picture(), 0)
    with pytest.raises(ModelError, match=r"Layer 0 of patch-vlm .* all zeros"):
        read_image(bank, PatchVLM(tiny, gain=0), picture(), 0)


def test_states_that_overflow_stop_the_job_also_where_broken_images_are_skipped(
    bank: Bank, tiny: LanguageModel
) -> None:
    reported: list[str] = []
    with pytest.raises(ModelError, match="not finite in float32"):
        list(
            read_images(
                PatchVLM(tiny, gain=math.inf),
                [picture(), picture(1)],
                [LatentLens(bank)],
                [0],
                broken=lambda name, _: reported.append(name),
            )
        )
    assert reported == []


def test_norms_beyond_float16_are_warned_about_before_the_reading(
    tmp_path: Path, tiny_dir: Path, bank: Bank
) -> None:
    half = load_language_model(str(tiny_dir), dtype="float16")
    large = PatchVLM(half, gain=15_000)
    warnings: list[str] = []
    lens = Counting()

    def warn(text: str) -> None:
        assert not lens.received
        warnings.append(text)

    warnings.clear()
    list(read_layers(large, picture(), [lens], [0, 1], warn=warnings.append))
    assert len(warnings) == 1
    warnings.clear()
    lens = Counting()
    images = [picture(), picture(1)]
    assert len(list(read_images(large, images, [lens], [0], batch=1, warn=warn))) == 2
    (text,) = warnings
    assert "at layer 0, beyond what float16 holds (65,504): load it in bfloat16 or float32" in text
    with pytest.warns(RuntimeWarning, match="beyond what float16 holds"):
        list(read_images(large, images, [lens], [0]))
    warnings.clear()
    list(read_images(PatchVLM(half), images, [Counting()], [0], warn=warnings.append))
    list(
        read_images(
            PatchVLM(load_language_model(str(tiny_dir)), gain=15_000),
            images,
            [lens],
            [0],
            warn=warnings.append,
        )
    )
    assert warnings == []


def test_a_centred_bank_takes_the_mean_from_visual_tokens(tiny: LanguageModel, tmp_path: Path) -> None:
    """The mean is each image's own, independent of the rest of the batch, or one measured on many images."""
    with fill("centred", tmp_path, tiny, ONE_CORPUS, metric="centred") as bank:
        vlm, images = PatchVLM(tiny), [picture(seed) for seed in range(3)]
        lenses = [LatentLens(bank, "all"), EmbeddingLens(tiny.embedding, tiny.tokenizer)]
        together = list(read_images(vlm, images, lenses, [0, 2], top_k=2))
        for image, reading in zip(images, together, strict=True):
            assert (reading.metric, reading.query_mean) == ("centred", "their own mean")
            assert "centred by their own mean" in reading.title()
            (tokens,) = vlm.visual_tokens([image], [0, 2])
            for layer in (0, 2):
                states = tokens.states[layer].numpy()
                found = bank.search(states, "all", 2, query_mean=unit(states).mean(axis=0))
                assert [[n.id for n in t.neighbors] for t in reading.at(layer)] == [
                    [n.id for n in row] for row in found
                ]
        means = means_of(
            (t.states for t in vlm.visual_tokens(images, [0, 2])), "visual tokens", vlm.fingerprint()
        )
        (measured,) = read_images(vlm, images[:1], lenses, [0], query_mean=means, top_k=2)
        assert measured.query_mean == "mean of visual tokens"
        (reading,) = read_images(vlm, images[:1], lenses, [0], query_mean=means.at(0, units=True), top_k=2)
        assert reading.query_mean == "a mean that was given"
        assert reading.tokens == measured.tokens
        found = bank.search(
            vlm.visual_tokens(images, [0])[0].states[0].numpy(), "all", 2, query_mean=means.at(0, units=True)
        )
        assert [[n.id for n in t.neighbors] for t in measured.at(0)] == [[n.id for n in row] for row in found]


# --- readings as data, words and pictures -------------------------------------------------------


@pytest.fixture
def tiled(bank: Bank, tiny: LanguageModel) -> Reading:
    (reading,) = read_images(
        PatchVLM(tiny, tiles=2),
        [picture(5, (60, 40))],
        [LatentLens(bank, "all"), EmbeddingLens(tiny.embedding, tiny.tokenizer)],
        [0, 2],
        top_k=3,
    )
    return reading


def test_grids_of_words(tiled: Reading) -> None:
    assert tiled.tiles == [0, 1]
    for tile in (0, 1):
        grid = tiled.grid(2, "embedding", tile)
        assert [len(row) for row in grid] == [3, 3]
        for token in tiled.at(2, "embedding"):
            assert token.place is not None
            if token.place.tile == tile:
                assert grid[token.place.row][token.place.column] == token.neighbors[0].word
    assert tiled.grid(2) == tiled.grid(2, "latent", 0) != tiled.grid(2, "latent", 1)
    with pytest.raises(QueryError, match="no tile 2; it has 0, 1"):
        tiled.grid(2, tile=2)
    assert {token.label for token in tiled.at(0)} >= {"0,0", "1,2", "1:0,0"}


def test_a_token_without_a_place_is_read_but_stands_in_no_grid(bank: Bank, tiny: LanguageModel) -> None:
    """Some models give their LLM the encoder's CLS token before the patches."""

    class WithClass(PatchVLM):
        def _places(self, size: tuple[int, int]) -> dict[str, Any]:
            places = super()._places(size)
            places["rows"][0] = places["columns"][0] = -1
            return places

    reading = read_image(bank, WithClass(tiny), picture(), 0)
    assert len(reading.tokens) == 6
    assert reading.grid(0)[0][0] == ""
    assert reading.tokens[0].label == "0"
    assert draw_reading(reading).size == draw_reading(read_image(bank, PatchVLM(tiny), picture(), 0)).size


def test_a_text_has_no_grid(bank: Bank, tiny: LanguageModel) -> None:
    with pytest.raises(QueryError, match="was read is not an image, so its tokens have no grid"):
        read_text(bank, tiny, "A dog.", 2).grid(2)


def test_repr_is_a_grid_for_every_lens_layer_and_tile(tiled: Reading) -> None:
    lines = repr(tiled).splitlines()
    assert lines[0].startswith("latent + embedding reading of 'image 0' (60 x 40) by patch-vlm against small")
    headings = [line for line in lines if "visual layer" in line]
    assert len(headings) == 2 * 2 * 2
    assert headings[0] == "latent lens, visual layer 0, tile 0"
    assert len(lines) == 1 + 8 * (1 + GRID[0])
    at = lines.index("embedding lens, visual layer 2, tile 1")
    for line, words in zip(lines[at + 1 : at + 3], tiled.grid(2, "embedding", 1), strict=True):
        places = [line.find(shorten(word, 20)) for word in words]
        assert places == sorted(places)
        assert -1 not in places


def test_grids_are_cut_to_the_width_and_stay_aligned(tiled: Reading) -> None:
    from rich.cells import cell_len

    for width in (20, 40):
        assert all(cell_len(line) <= width for line in grid_lines(tiled, width) if "lens" not in line)
    assert shorten("elephant", 5) == "elep…"
    assert shorten("猫猫猫", 4) == "猫…"
    assert shorten("\n", 4) == "\\n"
    assert shorten("a\x00b", 4) == "a·b"


def test_to_dict_of_an_image(tiled: Reading) -> None:
    data = json.loads(json.dumps(tiled.to_dict(), allow_nan=False))
    assert data["lens"] == "latent,embedding"
    assert data["lenses"] == ["latent", "embedding"]
    assert (data["size"], data["geometry"], data["prompt"]) == ([60, 40], "exact, 2 x 3 patches", None)
    assert len(data["tokens"]) == 2 * 2 * 12
    last = data["tokens"][-1]
    assert set(last) == {
        "index",
        "label",
        "kind",
        "layer",
        "lens",
        "norm",
        "p_value",
        "silent",
        "tile",
        "row",
        "column",
        "box",
        "neighbors",
    }
    assert (last["lens"], last["layer"], last["tile"], last["row"], last["column"]) == (
        "embedding",
        2,
        1,
        1,
        2,
    )
    assert last["box"] == [20.0, 20.0, 30.0, 40.0]


def test_to_pandas_of_an_image_has_places(tiled: Reading) -> None:
    frame = tiled.to_pandas()
    assert len(frame) == 2 * 2 * 12 * 3
    last = frame.iloc[-1]
    assert (last["lens"], last["tile"], last["row"], last["column"], last["rank"]) == (
        "embedding",
        1,
        1,
        2,
        2,
    )
    assert last[["left", "top", "right", "bottom"]].tolist() == [20.0, 20.0, 30.0, 40.0]
    best = frame[
        (frame["rank"] == 0) & (frame["lens"] == "latent") & (frame["layer"] == 2) & (frame["tile"] == 0)
    ]
    assert best["word"].tolist() == [word for row in tiled.grid(2) for word in row]


def test_a_picture_has_a_panel_for_each_lens_and_layer(tiled: Reading, tmp_path: Path) -> None:
    page = draw_reading(tiled)
    panel = draw_reading(tiled, layers=[2], lenses=["latent"])
    assert page.width > 1.9 * panel.width
    assert page.height > 1.9 * panel.height
    path = save_reading(tiled, tmp_path / "new" / "page.png")
    with Image.open(path) as saved:
        assert (saved.format, saved.size) == ("PNG", page.size)
    assert [p.name for p in path.parent.iterdir()] == ["page.png"]
    again = tiled._repr_png_()
    assert again is not None
    assert Image.open(io.BytesIO(again)).size == page.size


def test_words_are_drawn_on_their_patches(bank: Bank, vlm: PatchVLM) -> None:
    """Only patches with a word differ from the image, apart from their frames."""
    image = Image.new("RGB", (300, 200), (200, 120, 40))

    class Half(Counting, register=False):
        name = "half"

        def read(self, queries: Queries, top_k: int = 5) -> list[list[Neighbor]]:
            return [[Neighbor("crocodile", "crocodile", 0.5)] if i < 3 else [] for i in range(len(queries))]

    (reading,) = read_images(vlm, [image], [Half()], [0])
    assert reading.grid(0) == [["crocodile"] * 3, [""] * 3]
    page = np.asarray(draw_reading(reading))
    panel = page[-10 - 200 * page.shape[1] // 320 :, 10:-10]
    height = len(panel)
    changed = (np.abs(panel.astype(int) - (200, 120, 40)).max(axis=2) > 60).mean(axis=1)
    assert changed[: height // 2].max() > 0.3
    assert changed[int(height * 0.56) : int(height * 0.9)].max() < 0.1


@pytest.mark.parametrize("size", [(1, 1), (2000, 3), (3, 2000), (4000, 3000)])
def test_pictures_of_any_size_stay_of_a_size(bank: Bank, vlm: PatchVLM, size: tuple[int, int]) -> None:
    page = draw_reading(read_image(bank, vlm, picture(0, size), 0))
    assert max(page.size) < 2600
    assert png_bytes(page).startswith(b"\x89PNG")


def test_only_images_are_drawn(bank: Bank, tiny: LanguageModel, tiled: Reading) -> None:
    with pytest.raises(QueryError, match="Only a reading that holds its image"):
        draw_reading(read_text(bank, tiny, "A dog.", 2))
    assert read_text(bank, tiny, "A dog.", 2)._repr_png_() is None
    with pytest.raises(QueryError, match="no tile 7"):
        draw_reading(tiled, tile=7)


def test_images_that_were_found_are_read_under_their_names(bank: Bank, vlm: PatchVLM, tmp_path: Path) -> None:
    for number in (2, 1):
        picture(number).save(tmp_path / f"{number}.png")
    readings = list(read_images(vlm, find_images([tmp_path]), [LatentLens(bank)], [0]))
    assert [r.source for r in readings] == [str(tmp_path / "1.png"), str(tmp_path / "2.png")]


def test_visual_tokens_are_searched_with_more_candidates(
    bank: Bank, vlm: PatchVLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They lie far from text, so a search in a graph of text misses the nearest contexts more often."""
    images = [picture()]
    candidates = record_candidates(bank, monkeypatch)
    list(read_images(vlm, images, [LatentLens(bank, "all")], [0], top_k=2))
    assert set(candidates) == {bank.settings.ef_visual}
    candidates.clear()
    list(read_images(vlm, images, [LatentLens(bank, "all", ef=7)], [0], top_k=2))
    assert set(candidates) == {7}
    candidates.clear()
    bank.search(vlm.visual_tokens(images, [0])[0].states[0].numpy(), "all", 2)
    assert set(candidates) == {None}
