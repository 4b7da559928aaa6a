"""Training: the loss, learning, resuming after a kill, several processes, and bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from latentbank.errors import CorpusError, LatentBankError, ModelError
from latentbank.locks import alone_in
from latentbank.models.composite.layout import layout_of
from latentbank.models.composite.model import CompositeVLM
from latentbank.models.composite.projector import Projector, load_projector
from latentbank.models.language.model import LanguageModel, load_language_model
from latentbank.models.training import optimizing, starting, train
from latentbank.models.training.batches import Sequences
from latentbank.models.training.card import _without_folder
from latentbank.models.training.features import Features, cache_features
from latentbank.models.training.log import load_checkpoint
from latentbank.models.training.pairs import Pair
from latentbank.models.training.stages import Stage, TrainSettings
from latentbank.models.training.starting import first_projector
from latentbank.models.training.train import train_projector
from tests.models.pixels import COLOURS, PixelEncoder, pairs
from tests.tiny import save_tiny, tiny_model, tiny_tokenizer

QUICK = TrainSettings(width=24, log_every=5, validate_every=10)


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    path = save_tiny(tmp_path_factory.mktemp("llm"), tie_word_embeddings=True)
    return load_language_model(str(path), device="cpu", dtype="float32")


@pytest.fixture
def features(tmp_path: Path) -> Features:
    return cache_features(PixelEncoder(), pairs(30, regions=True), tmp_path / "features", "colours")


def test_the_loss_is_the_llms_own_on_the_captions_tokens(language: LanguageModel, features: Features) -> None:
    """The reference is transformers' loss, one sequence at a time, with all but the caption masked."""
    whole = tiny_model("llama", tie_word_embeddings=True)
    sequences = Sequences(features, language.tokenizer, language.max_length)
    run = train._Run([Stage(features, steps=1)], language, QUICK, Path("."), None, None, train.Silent())
    run.head = train.caption_loss(language)
    run.projector = first_projector(features, language, QUICK, None)
    rows = [0, 1, 2, 5]
    mine = run._loss(sequences.batch(rows), sequences.layout)
    layout, embed = sequences.layout, whole.get_input_embeddings()
    expected = torch.zeros(())
    for row in rows:
        visual = run.projector(features.tokens(row))
        caption = [*language.tokenizer(features.rows[row].caption)["input_ids"], layout.end]
        text = [embed(torch.tensor(ids)) for ids in (layout.before, [*layout.after, *caption])]
        sequence = torch.cat([text[0], visual, text[1]])[None]
        labels = torch.tensor([[-100] * (sequence.shape[1] - len(caption)) + caption])
        expected = expected + whole(inputs_embeds=sequence, labels=labels).loss * len(caption)
    torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-4)
    mine.backward()
    gradient = [parameter.grad.clone() for parameter in run.projector.parameters()]
    run.projector.zero_grad()
    expected.backward()
    for got, parameter in zip(gradient, run.projector.parameters(), strict=True):
        torch.testing.assert_close(got, parameter.grad, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def copying(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """A tiny LLM trained to repeat the names of four colours in its input, which a random LLM cannot do."""
    path = tmp_path_factory.mktemp("copying")
    whole = tiny_model("llama", tie_word_embeddings=True)
    tokenizer = tiny_tokenizer()
    layout = layout_of(tokenizer)
    names = {colour: tokenizer(colour)["input_ids"][0] for colour in COLOURS}
    random = np.random.default_rng(0)
    whole.train().requires_grad_(True)
    with torch.no_grad():
        whole.get_input_embeddings().weight.mul_(0.3)
    optimizer = torch.optim.AdamW(whole.parameters(), lr=3e-3)
    for _ in range(250):
        rows = []
        for _ in range(16):
            left, right = random.choice(list(COLOURS), 2)
            description = [names[left], names[right], names[left], names[right]]
            caption = f"{left} and {right}" if left != right else f"{left} alone"
            rows.append(
                [*layout.before, *description, *layout.after, *tokenizer(caption)["input_ids"], layout.end]
            )
        longest = max(map(len, rows))
        ids = torch.tensor([row + [layout.end] * (longest - len(row)) for row in rows])
        whole(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    whole.eval().save_pretrained(path)
    tokenizer.save_pretrained(path)
    return load_language_model(str(path), device="cpu", dtype="float32")


def test_a_trained_projector_names_colours(copying: LanguageModel, tmp_path: Path) -> None:
    encoder = PixelEncoder()
    whole = cache_features(encoder, pairs(60), tmp_path, "colours")
    training, kept_back = whole.split(0.1, 100, 0)
    assert not {row.image for row in training.rows} & {row.image for row in kept_back.rows}
    settings = replace(QUICK, validate_every=50)
    file = train_projector(
        [Stage(training, steps=150, rate=1e-2)], copying, settings, tmp_path / "out", validation=kept_back
    )
    projector, card = load_projector(file)
    assert card["training"]["validation_loss"] < 0.5
    assert card["training"]["steps"] == 150
    assert card["data"][0]["rows"] == len(training)
    image = Image.new("RGB", (8, 8), COLOURS["red"])
    image.paste(COLOURS["blue"], (4, 0, 8, 8))
    vlm = CompositeVLM(encoder, projector, copying, card)
    assert vlm.captions([image, image], most=12) == ["red and blue"] * 2
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log if "loss" in entry] == list(range(5, 151, 5))
    assert log[-1]["samples"][0]["caption"] == kept_back.rows[0].caption
    assert (tmp_path / "out" / "loss.png").stat().st_size > 1000


def _until(step: Callable[..., object], steps: int) -> Callable[..., object]:
    left = iter(range(steps))

    def killed(run: train._Run, *args: object) -> object:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return step(run, *args)

    return killed


def test_a_killed_training_resumes_as_if_nothing_had_been(
    language: LanguageModel, features: Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, kept_back = features.split(0.2, 100, 0)
    regions = training.select([n for n, row in enumerate(training.rows) if row.patches is not None])
    stages = [Stage(regions, steps=12, batch=8, floor=1.0), Stage(training, steps=15, batch=4, warmup=0.0)]
    settings = replace(QUICK, save_every=0.0)
    unbroken = train_projector(stages, language, settings, tmp_path / "a", validation=kept_back)
    step = train._Run._step
    for steps in (5, 3, 9):  # twice in the first stage, once in the second
        with monkeypatch.context() as patch:
            patch.setattr(train._Run, "_step", _until(step, steps))
            with pytest.raises(KeyboardInterrupt):
                train_projector(stages, language, settings, tmp_path / "b", validation=kept_back)
    resumed = train_projector(stages, language, settings, tmp_path / "b", validation=kept_back)
    for name, tensor in load_projector(unbroken)[0].state_dict().items():
        assert torch.equal(tensor, load_projector(resumed)[0].state_dict()[name]), name
    logs = [(tmp_path / run / "log.jsonl").read_text() for run in "ab"]
    assert logs[0] == logs[1]
    assert not (tmp_path / "b" / "checkpoint.pt").exists()


def test_a_finished_training_is_not_run_again(
    language: LanguageModel, features: Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train_projector([Stage(features, steps=2)], language, QUICK, tmp_path / "a")
    monkeypatch.setattr(train._Run, "train", None)
    assert train_projector([Stage(features, steps=2)], language, QUICK, tmp_path / "a") == first
    with pytest.raises(ModelError, match="another training"):
        train_projector([Stage(features, steps=3)], language, QUICK, tmp_path / "a")


def test_two_trainings_in_one_directory(language: LanguageModel, features: Features, tmp_path: Path) -> None:
    with (
        alone_in(tmp_path / "out", "trains"),
        pytest.raises(LatentBankError, match=f"trains in {tmp_path / 'out'}; wait for it to end, or end it"),
    ):
        train_projector([Stage(features, steps=1)], language, QUICK, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_accumulation_changes_nothing(language: LanguageModel, features: Features, tmp_path: Path) -> None:
    files = [
        train_projector(
            [Stage(features, steps=5, batch=7)],
            language,
            replace(QUICK, accumulate=parts),
            tmp_path / str(parts),
        )
        for parts in (1, 3)
    ]
    states = [load_projector(file)[0].state_dict() for file in files]
    for name in states[0]:
        torch.testing.assert_close(states[0][name], states[1][name], atol=2e-3, rtol=2e-3)


def test_a_process_without_rows_sends_zeros(
    language: LanguageModel, features: Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one row per step the second process has none, but must send messages of the same lengths."""
    second = SimpleNamespace(
        num_processes=2, process_index=1, is_main_process=False, wait_for_everyone=lambda: None
    )
    sent: list[torch.Tensor] = []

    def reduce(tensor: torch.Tensor, how: str) -> torch.Tensor:
        sent.append(tensor.clone())
        return tensor

    monkeypatch.setattr(train, "processes", lambda device: second)
    for module in (train, optimizing):
        monkeypatch.setattr(module, "reduce", reduce)
    train_projector([Stage(features, steps=2, batch=1)], language, QUICK, tmp_path)
    size = sum(weight.numel() for weight in Projector("mlp3", 7, language.hidden_size, 24).parameters())
    assert [tensor.numel() for tensor in sent] == [size, 1] * 2  # gradients and the loss of each step
    assert not any(tensor.any() for tensor in sent)


def test_a_training_belongs_to_all_blocks_of_its_llm(
    features: Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_tiny(tmp_path / "llm", tie_word_embeddings=True)
    own, tuned = (load_language_model(str(path), device="cpu", dtype="float32") for _ in range(2))
    with torch.no_grad():
        for weight in tuned._blocks[3].parameters():
            weight.mul_(1.1)
    assert own.fingerprint() == tuned.fingerprint()
    stages = [Stage(features, steps=3)]
    with monkeypatch.context() as patch:
        patch.setattr(train._Run, "_step", _until(train._Run._step, 2))
        patch.setattr(starting, "_SAMPLE", 100)
        with pytest.raises(KeyboardInterrupt):
            train_projector(stages, own, replace(QUICK, save_every=0.0), tmp_path / "out")
    with pytest.raises(ModelError, match="another training, unfinished"):
        train_projector(stages, tuned, QUICK, tmp_path / "out")
    # As an earlier version wrote it: the LLM is known by its fingerprint alone.
    run = train._Run(stages, own, QUICK, tmp_path / "out", None, None, train.Silent())
    found = load_checkpoint(tmp_path / "out")
    assert found is not None
    found[0].identity = run._former_identity()
    content = {"checkpoint": json.dumps(asdict(found[0])), "projector": found[1], "optimizer": found[2]}
    torch.save(content, tmp_path / "out" / "checkpoint.pt")
    file = train_projector(stages, own, QUICK, tmp_path / "out")
    written = json.loads(file.with_suffix(".json").read_text())
    assert written["training"]["identity"] == run.identity
    written["training"]["identity"] = run._former_identity()
    file.with_suffix(".json").write_text(json.dumps(written))
    assert train_projector(stages, own, QUICK, tmp_path / "out") == file
    with pytest.raises(
        ModelError, match="the LLM llm, not with the one of that name here, which differs in block 4"
    ):
        train_projector(stages, tuned, QUICK, tmp_path / "out")


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        ("org/pairs, train, version 1f, image and text", "org/pairs, train, version 1f, image and text"),
        ("/home/me/a, b/metadata.jsonl, version 1f, text", "a, b/metadata.jsonl, version 1f, text"),
        (
            "/home/me/pairs config, train, version 1f, x/y and text",
            "pairs config, train, version 1f, x/y and text",
        ),
        ("C:\\me\\pairs, train, version 1f, image and text", "pairs, train, version 1f, image and text"),
        ("/home/me/pairs", "pairs"),
    ],
)
def test_a_card_names_data_without_its_folder(data: str, shown: str) -> None:
    assert _without_folder(data) == shown


def test_seconds_end_a_stage(language: LanguageModel, features: Features, tmp_path: Path) -> None:
    file = train_projector([Stage(features, seconds=0.5)], language, QUICK, tmp_path / "a")
    assert load_projector(file)[1]["training"]["steps"] > 0


def test_training_goes_on_from_another_projector(
    language: LanguageModel, features: Features, tmp_path: Path
) -> None:
    first = train_projector([Stage(features, steps=2)], language, QUICK, tmp_path / "a")
    # With so low a rate nothing is learned, so the result equals the initial projector.
    second = train_projector(
        [Stage(features, steps=1, rate=1e-30)], language, QUICK, tmp_path / "b", init=first
    )
    a, b = (load_projector(file)[0].state_dict() for file in (first, second))
    assert all(torch.equal(a[name], b[name]) for name in a)
    foreign = cache_features(PixelEncoder("others"), pairs(5), tmp_path / "features", "colours")
    with pytest.raises(ModelError, match="encoder"):
        train_projector([Stage(foreign, steps=1)], language, QUICK, tmp_path / "c", init=first)
    path = save_tiny(tmp_path / "llm", seed=1, tie_word_embeddings=True)
    other_llm = load_language_model(str(path), device="cpu", dtype="float32")
    with pytest.raises(ModelError, match="the LLM"):
        train_projector([Stage(features, steps=1)], other_llm, QUICK, tmp_path / "d", init=first)


def test_captions_longer_than_the_context_are_cut(language: LanguageModel, tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8))
    long = cache_features(
        PixelEncoder(), [Pair(image, "dog " * 300), Pair(image, "a dog")], tmp_path, "long captions"
    )
    sequences = Sequences(long, language.tokenizer, language.max_length)
    assert sequences.cut == 1
    assert sequences.lengths.max() == language.max_length
    file = train_projector([Stage(long, steps=1)], language, QUICK, tmp_path / "out")
    assert load_projector(file)[1]["data"][0]["cut_captions"] == 1


def test_visual_tokens_that_fill_the_context_are_refused(language: LanguageModel, features: Features) -> None:
    with pytest.raises(ModelError, match="no room"):
        Sequences(features, language.tokenizer, 6)


def test_captions_with_tokens_that_the_llm_lacks_are_refused(tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "llm", tie_word_embeddings=True)
    language = load_language_model(str(path), device="cpu", dtype="float32")
    language.tokenizer.add_tokens(["zebrafish"])
    images = [Pair(Image.new("RGB", (8, 8)), "a zebrafish")]
    features = cache_features(PixelEncoder(), images, tmp_path, "fish")
    with pytest.raises(ModelError, match=r"'zebrafish' \(id 400\) is outside the 400 rows"):
        train_projector([Stage(features, steps=1)], language, QUICK, tmp_path / "out")


def test_data_without_captions_is_refused(tmp_path: Path) -> None:
    nothing = [Pair(Image.new("RGB", (8, 8)), "  ")]
    with pytest.raises(CorpusError, match="no image with a caption"):
        cache_features(PixelEncoder(), nothing, tmp_path, "nothing")


def test_an_llm_loaded_in_part_is_refused(features: Features, tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "llm", tie_word_embeddings=True)
    part = load_language_model(str(path), device="cpu", dtype="float32", deepest_layer=2)
    with pytest.raises(ModelError, match="in part"):
        train_projector([Stage(features, steps=1)], part, QUICK, tmp_path / "out")
