"""Tuned and Jacobian lenses: what training gives, against torch's own derivatives and on text held out."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import pytest
import torch

from latentbank.errors import BankMismatch, CorpusError, LatentBankError, LayerNotFound, ModelError
from latentbank.models.language.layout import find_blocks
from latentbank.models.language.model import LanguageModel, load_language_model
from latentbank.models.language.prepacked import unpack
from latentbank.models.language.translators import (
    Translators,
    load_translators,
    read_released,
    save_translators,
)
from latentbank.models.language.unembedding import unembedding_of_language
from latentbank.models.training.checkpoint import Checkpoint
from latentbank.models.training.jacobian import JacobianSettings, compute_jacobian
from latentbank.models.training.texts import batches, ids_of, split
from latentbank.models.training.tuned import TunedSettings, train_tuned
from latentbank.progress import Silent
from tests.tiny import TEXTS, save_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load_language_model(save_tiny(tmp_path_factory.mktemp("lens") / "tiny"))


WORDS = " ".join(TEXTS).split()
MANY = [" ".join(random.Random(seed).choices(WORDS, k=12)) for seed in range(120)]


@pytest.fixture(scope="module")
def tuned(tiny: LanguageModel) -> Translators:
    settings = TunedSettings(passes=3, tokens=512, rate=3e-3)
    return train_tuned(
        tiny, unembedding_of_language(tiny), MANY, layers=[3, 1], settings=settings, corpus="t"
    )


def test_training_lowers_the_divergence_on_text_held_out(tuned: Translators) -> None:
    assert tuned.layers == [1, 3]
    assert tuned.card["corpus"] == "t"
    for layer in ("1", "3"):
        found = tuned.card["divergence"][layer]
        assert found["after"] < 0.9 * found["before"]
    # A deeper layer says more about the answer.
    assert tuned.card["divergence"]["3"]["after"] < tuned.card["divergence"]["1"]["after"]


def test_the_divergence_is_that_of_the_models_own_answers(tiny: LanguageModel, tuned: Translators) -> None:
    """What the card says was measured before training is LogitLens's divergence, computed here another way."""
    _, held_out = split(ids_of(tiny, MANY))
    found = tiny.hidden_states(held_out, [1, 4])
    unembedding = unembedding_of_language(tiny)
    wanted, guessed = (
        torch.distributions.Categorical(
            logits=unembedding.logits(torch.cat([states[layer][1:] for states in found])).double()
        )
        for layer in (4, 1)
    )
    expected = torch.distributions.kl_divergence(wanted, guessed).mean()
    assert tuned.card["divergence"]["1"]["before"] == pytest.approx(float(expected), rel=1e-3)


class Killed(Exception):
    """Stands for a kill."""


class Kill(Silent):
    """Ends a run after some steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def update(self, done: int, total: int | None) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


@pytest.mark.parametrize("kind", ["tuned", "jacobian"])
def test_a_killed_run_continues_and_gives_the_same(tiny: LanguageModel, tmp_path: Path, kind: str) -> None:
    sentences = MANY[:6]
    settings, how = TunedSettings(passes=2, tokens=128, rate=3e-3), JacobianSettings(rows=1, tokens=128)
    counts: list[int] = []

    class Count(Silent):
        def update(self, done: int, total: int | None) -> None:
            counts.append(done)

    def made(layers: list[int], file: Path | None = None, progress: Silent | None = None) -> Translators:
        checkpoint = None if file is None else Checkpoint(file, every=0)
        if kind == "jacobian":
            return compute_jacobian(
                tiny, sentences, layers, how, checkpoint=checkpoint, progress=progress or Count()
            )
        unembedding = unembedding_of_language(tiny)
        return train_tuned(
            tiny,
            unembedding,
            sentences,
            layers,
            settings,
            checkpoint=checkpoint,
            progress=progress or Count(),
        )

    whole = made([1, 3])
    steps = len(counts)
    counts.clear()
    file = tmp_path / "unfinished"
    with pytest.raises(Killed):
        made([1, 3], file, Kill(steps - 1))
    again = made([1, 3], file)
    assert len(counts) == 1  # the others were done before
    for layer in (1, 3):
        assert torch.equal(again.weights[layer], whole.weights[layer])
    assert again.biases.keys() == whole.biases.keys()
    assert all(torch.equal(again.biases[layer], bias) for layer, bias in whole.biases.items())
    counts.clear()
    made([1], file)  # a checkpoint of other layers is not continued
    assert len(counts) == steps


def test_the_model_does_not_change(tiny: LanguageModel, tuned: Translators) -> None:
    assert tuned.layers
    assert all(weight.grad is None for weight in tiny.decoder.parameters())
    assert not any(weight.requires_grad for weight in tiny.decoder.parameters())


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_all_rows_give_the_jacobian_of_torch(tiny: LanguageModel) -> None:
    sentences = [text[:20] for text in TEXTS[:2]]
    settings = JacobianSettings(rows=tiny.hidden_size, tokens=256)
    found = compute_jacobian(tiny, sentences, layers=[0, 2], settings=settings)
    plain = load_language_model(tiny.name)
    blocks = find_blocks(plain.decoder)
    unpack(plain.decoder)  # torch.func cannot differentiate prepacked layers
    for layer in (0, 2):
        means = []
        for sentence in sentences:
            ids = tiny.encode(sentence)
            (states,) = tiny.hidden_states([ids], [layer])
            entering = states[layer].clone()

            def rest(x: torch.Tensor, layer: int = layer) -> torch.Tensor:
                inputs = torch.zeros(1, len(x), dtype=torch.long)
                kept: dict[str, torch.Tensor] = {}
                handles = [
                    blocks[layer].register_forward_pre_hook(lambda _b, args: (x[None], *args[1:])),
                    blocks[-1].register_forward_hook(lambda _b, _a, out: kept.update(last=out)),
                ]
                plain.decoder(input_ids=inputs, use_cache=False)
                for handle in handles:
                    handle.remove()
                return kept["last"][0]

            jacobian = torch.func.jacrev(rest)(entering)  # [q, out, p, in]
            counted = jacobian[1:, :, 1:]
            means.append(counted.sum(0).mean(1))
        torch.testing.assert_close(found.weights[layer], torch.stack(means).mean(0), rtol=1e-3, atol=1e-5)


def test_few_rows_of_each_sentence_estimate_the_same(tiny: LanguageModel) -> None:
    texts = [text[:24] for text in TEXTS]
    whole = compute_jacobian(tiny, texts, [2], JacobianSettings(rows=tiny.hidden_size)).weights[2]
    seeds = [
        compute_jacobian(tiny, texts, [2], JacobianSettings(rows=8, seed=seed)).weights[2]
        for seed in range(5)
    ]

    def far(matrix: torch.Tensor) -> float:
        return float((matrix - whole).norm() / whole.norm())

    assert far(torch.stack(seeds).mean(0)) < 0.7 * sum(map(far, seeds)) / len(seeds)
    assert far(seeds[0]) < 0.5


def test_files_keep_maps_and_card(tuned: Translators, tmp_path: Path) -> None:
    save_translators(tmp_path / "lens.safetensors", tuned)
    again = load_translators(tmp_path / "lens.safetensors")
    assert (again.kind, again.layers, again.card) == (tuned.kind, tuned.layers, tuned.card)
    assert all(torch.equal(again.weights[layer], tuned.weights[layer]) for layer in tuned.layers)
    assert all(torch.equal(again.biases[layer], tuned.biases[layer]) for layer in tuned.layers)
    (tmp_path / "other.safetensors").write_bytes(b"x")
    with pytest.raises(LatentBankError, match="holds no lens"):
        load_translators(tmp_path / "other.safetensors")


def test_maps_belong_to_their_llm(tiny: LanguageModel, tuned: Translators, tmp_path: Path) -> None:
    tuned.check(tiny)
    other = load_language_model(save_tiny(tmp_path / "other", seed=1))
    with pytest.raises(BankMismatch, match=r"lens is of tiny, not of other"):
        tuned.check(other)


def test_released_tuned_lenses_are_read(tiny: LanguageModel, tmp_path: Path) -> None:
    """The library tuned-lens numbers its translators by the hidden states of transformers: from the embedding on."""
    width, count = tiny.hidden_size, tiny.num_layers
    config = {"base_model_name_or_path": "x/y", "d_model": width, "num_hidden_layers": count, "bias": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    translators = torch.nn.ModuleList([torch.nn.Linear(width, width) for _ in range(count)]).half()
    torch.save(translators.state_dict(), tmp_path / "params.pt")
    found = read_released(tmp_path, tiny)
    assert (found.kind, found.layers, found.card["released_for"]) == ("tuned", [0, 1, 2, 3], "x/y")
    states = torch.randn(3, width)
    with torch.no_grad():
        expected = states + translators[2].float()(states)
    torch.testing.assert_close(found.translate(states, 2), expected)
    found.check(tiny)
    (tmp_path / "config.json").write_text(json.dumps({**config, "d_model": 64}))
    with pytest.raises(ModelError, match="hidden states of 64 and 4 layers; tiny has 32"):
        read_released(tmp_path, tiny)


def test_released_jacobians_are_read(tiny: LanguageModel, tmp_path: Path) -> None:
    """The library jlens numbers matrices by the blocks whose output they read."""
    width = tiny.hidden_size
    matrices = {number: torch.randn(width, width).half() for number in range(3)}
    torch.save(
        {"J": matrices, "n_prompts": 7, "d_model": width, "source_layers": [0, 1, 2]}, tmp_path / "j.pt"
    )
    found = read_released(tmp_path / "j.pt", tiny)
    assert (found.kind, found.layers, found.card["sentences"]) == ("jacobian", [1, 2, 3], 7)
    states = torch.randn(3, width)
    torch.testing.assert_close(found.translate(states, 2), states @ matrices[1].float().T)
    torch.save(dataclasses.replace(found), tmp_path / "code.pt")
    with pytest.raises(ModelError, match="cannot be read"):
        read_released(tmp_path / "code.pt", tiny)
    with pytest.raises(ModelError, match="There is no released lens"):
        read_released(tmp_path / "missing", tiny)


def test_what_cannot_be_trained(tiny: LanguageModel, tmp_path: Path) -> None:
    unembedding = unembedding_of_language(tiny)
    with pytest.raises(LayerNotFound, match="0 to 3"):
        train_tuned(tiny, unembedding, TEXTS, [4])
    with pytest.raises(CorpusError, match="two sentences"):
        train_tuned(tiny, unembedding, ["dog"])
    cut = load_language_model(save_tiny(tmp_path / "cut"), deepest_layer=2)
    with pytest.raises(ModelError, match="loaded in part"):
        compute_jacobian(cut, TEXTS)


def test_batches_hold_every_sentence_once() -> None:
    sentences = [[number] * (1 + number % 5) for number in range(40)]
    groups = list(batches(sentences, 12, seed=3))
    assert sorted(ids for group in groups for ids in group) == sorted(sentences)
    assert all(max(map(len, group)) * len(group) <= 12 for group in groups)
    assert groups != list(batches(sentences, 12, seed=4))
