"""Soft prompts read back: does LatentLens say the word that a tuned prompt makes the model say?

    python -m benchmarks.soft_prompts --bank descriptive --data-dir BANKS --work DIR --json soft-prompts.json

For each word, four vectors are tuned until the bank's LLM says it after them: given nothing else, and after the text
`--text` behind them, as prompts stand before texts in use (`--text ""`: given nothing else alone). All prompts of a
batch are tuned at once: each row is its own prompt, and only the prompts get gradients. A prompt begins as four
ordinary tokens at random, and is left alone once its word has the probability `--enough` at both places. DIR keeps the
tuned prompts, so a second run reads them at once. Each is put into peft's prompt tuning, in float32, which must say
the word.

The layer is chosen on prompts of other words (`--held-out`), among those between a quarter and three quarters of the
depth, by the share of prompts of which any virtual token names the word. It is then fixed for the prompts that count.
A prompt is read as its four virtual tokens. Each gets five neighbors from all bank layers, and three things are scored:

    any      the word is among the neighbors of any of the four tokens
    pooled   it is among the five best neighbors of the tokens together; without the first, which is the attention
             sink, and whose nearest contexts are near whatever it holds (a bank holds no first tokens of sentences)
    last     it is among the neighbors of the last token alone, whose own next token is the word

Beside them stand prompts of random directions whose vectors have the same norms, the ordinary tokens that the prompts
began as, and the tuned prompts scored with another prompt's word.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import latentbank as lb
from benchmarks.common import Row, machine, parser_of, show, write_json
from latentbank.bank.points import Neighbor
from latentbank.demo.scenes import THINGS
from latentbank.models.language.model import LanguageModel
from latentbank.models.language.unembedding import unembedding_of_language
from latentbank.progress import shown
from latentbank.query.lenses.base import Lens, Queries

TOKENS = 4
RATE = 0.03
TEXT = " The word is"
BATCH = 22
RESAMPLES = 2000
ORDINARY = (1000, 40_000)
"""Ids of the ordinary tokens that prompts begin as: neither bytes nor the rarest."""


def main() -> None:
    """Tune, read, and print the table."""
    asked = _parser().parse_args()
    where = machine()
    with lb.open_bank(asked.bank, **({"data_dir": asked.data_dir} if asked.data_dir else {})) as bank:
        llm = lb.load_language_model(asked.model or bank.find_model(), device="cpu", dtype="float32")
        bank.require_model(llm.name, llm.identity())
        scored, others = words_of(llm, asked.words, asked.held_out)
        began = time.process_time()
        prompts = tuned(llm, [*others, *scored], asked)
        seconds = time.process_time() - began
        said = says(llm, prompts, scored)
        latent = lb.LatentLens(bank, "all")
        between = range(-(-llm.num_layers // 4), 3 * llm.num_layers // 4 + 1, asked.every)
        held_out = states_of(llm, torch.stack([prompts[word] for word in others]))
        by_layer = {layer: scores(read(latent, held_out[layer], layer), others) for layer in between}
        layer = max(between, key=lambda one: (by_layer[one]["any"].mean(), by_layer[one]["pooled"].mean()))
        kinds = {kind: states_of(llm, rows) for kind, rows in kinds_of(llm, prompts, scored).items()}
        vocabulary = lb.LogitLens(unembedding_of_language(llm), llm.tokenizer)
        lenses: list[tuple[str, Lens, Sequence[int]]] = [
            ("LatentLens", latent, (layer, 0)),
            ("LatentLens, distinct words", latent.distinct(), (layer,)),
            ("LogitLens", vocabulary, (layer, 0, llm.num_layers)),
            ("EmbeddingLens", lb.EmbeddingLens(llm.embedding, llm.tokenizer), (layer, 0)),
        ]
        measured: dict[str, Any] = {
            "layer": layer,
            "chosen_on": {one: shares_of(by_layer[one]) for one in between},
            "said": float(np.mean(said)),
            "shares": {name: measure(lens, kinds, scored, layers) for name, lens, layers in lenses},
            "examples": examples(latent, kinds["tuned"][layer], scored, layer),
            "words": scored,
            "held_out": others,
        }
    sizes = {
        "bank": asked.bank, "words": len(scored), "held out": len(others), "virtual tokens": TOKENS,
        "probability": asked.enough, "text": repr(asked.text), "layer": layer,
        "said by peft": f"{100 * measured['said']:.0f} %",
        "processor seconds of tuning": round(seconds),
    }  # fmt: skip
    rows = _rows(measured["shares"], layer)
    show("soft prompts read back", sizes, rows, where, ("random prompts", "tuned prompts"))
    print(json.dumps(measured["chosen_on"]), *measured["examples"], sep="\n")
    write_json(asked.json, sizes, rows, measured, where)


def words_of(llm: LanguageModel, count: int, held_out: int) -> tuple[list[str], list[str]]:
    """Return the words that count and the held-out ones: evenly spaced names of the demo's things, one token each."""
    names = [thing["name"] for thing in json.loads(THINGS.read_text(encoding="utf-8"))]
    single = [name for name in names if len(llm.tokenizer(f" {name}")["input_ids"]) == 1]
    spread = np.linspace(0, len(single) - 1, count + held_out).round().astype(int)
    chosen = [single[at] for at in spread]
    others = set(chosen[:: max(1, len(chosen) // held_out)][:held_out]) if held_out else set()
    return [word for word in chosen if word not in others], [word for word in chosen if word in others]


def first_token(llm: LanguageModel, word: str) -> int:
    """Return the token of a word as it stands after another one."""
    return int(llm.tokenizer(f" {word}")["input_ids"][0])


def beginning(llm: LanguageModel, word: str) -> Tensor:
    """Return the ordinary tokens that a word's prompt begins as, [TOKENS, hidden]; the same at each run."""
    chance = torch.Generator().manual_seed(first_token(llm, word))
    return llm.embedding[torch.randint(*ORDINARY, (TOKENS,), generator=chance)].float().clone()


def tuned(llm: LanguageModel, words: Sequence[str], asked: argparse.Namespace) -> dict[str, Tensor]:
    """Return the tuned prompt of each word, [TOKENS, hidden]; those in the work folder are not tuned again."""
    told = hashlib.blake2b(repr((asked.text, asked.enough, asked.rate, asked.steps)).encode(), digest_size=4)
    file = asked.work / f"prompts-{told.hexdigest()}.safetensors"
    found = load_file(file) if file.is_file() else {}
    missing = [word for word in words if word not in found]
    if missing:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(llm.name, dtype=getattr(torch, asked.dtype))
        model.requires_grad_(False).eval()
        asked.work.mkdir(parents=True, exist_ok=True)
        with shown("tuning prompts", "words") as progress:
            for at in range(0, len(missing), BATCH):
                batch = missing[at : at + BATCH]
                found |= dict(zip(batch, _tune(model, llm, batch, asked), strict=True))
                save_file(found, file)
                progress.update(min(at + BATCH, len(missing)), len(missing))
    return {word: found[word] for word in words}


def _tune(
    model: Any, llm: LanguageModel, words: Sequence[str], asked: argparse.Namespace
) -> Sequence[Tensor]:
    """Tune the prompts of some words at once; each is left alone when its word is probable enough."""
    prompts = torch.stack([beginning(llm, word) for word in words])
    targets = torch.tensor([first_token(llm, word) for word in words])
    first, second = torch.zeros_like(prompts), torch.zeros_like(prompts)  # Adam's moments, a row each
    active = torch.arange(len(words))
    behind = llm.tokenizer(asked.text)["input_ids"] if asked.text else []
    text = llm.embedding[torch.tensor(behind, dtype=torch.long)].float()
    places = [TOKENS - 1, -1]  # after the prompt alone, and after the text
    for step in range(1, asked.steps + 1):
        rows = prompts[active].requires_grad_()
        inputs = torch.cat([rows, text.expand(len(rows), -1, -1)], dim=1).to(model.dtype)
        last = model.model(inputs_embeds=inputs, use_cache=False).last_hidden_state[:, places]
        chances = model.lm_head(last).float().log_softmax(-1)
        said = chances.gather(2, targets[active, None, None].expand(-1, len(places), 1))[..., 0]
        going = said.amin(1).exp() < asked.enough
        if not going.any():
            break
        (gradient,) = torch.autograd.grad(-said.mean(1).sum(), rows)
        active, gradient = active[going], gradient[going]
        first[active] = 0.9 * first[active] + 0.1 * gradient
        second[active] = 0.999 * second[active] + 0.001 * gradient**2
        move = first[active] / (1 - 0.9**step) / ((second[active] / (1 - 0.999**step)).sqrt() + 1e-8)
        prompts[active] -= asked.rate * move
    return list(prompts)


def says(llm: LanguageModel, prompts: Mapping[str, Tensor], words: Sequence[str]) -> list[bool]:
    """Return for each word whether the LLM says it after its prompt, through peft's prompt tuning, in float32."""
    from peft import PromptTuningConfig, TaskType, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(llm.name, dtype=torch.float32)
    model = get_peft_model(
        base, PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=TOKENS)
    ).eval()
    weight = model.prompt_encoder["default"].embedding.weight
    found = []
    with torch.no_grad():
        for word in words:
            weight.copy_(prompts[word])
            # peft needs a token after the prompt; the model's answer stands before it.
            target = first_token(llm, word)
            logits = model(input_ids=torch.tensor([[target]])).logits[0, TOKENS - 1]
            found.append(int(logits.argmax()) == target)
    return found


def kinds_of(llm: LanguageModel, prompts: Mapping[str, Tensor], words: Sequence[str]) -> dict[str, Tensor]:
    """Return the prompts that are compared, each kind [words, TOKENS, hidden]."""
    own = torch.stack([prompts[word] for word in words])
    chance = torch.Generator().manual_seed(0)
    noise = torch.randn(own.shape, generator=chance)
    return {
        "tuned": own,
        "random": noise / noise.norm(dim=-1, keepdim=True) * own.norm(dim=-1, keepdim=True),
        "beginning": torch.stack([beginning(llm, word) for word in words]),
    }


def states_of(llm: LanguageModel, prompts: Tensor) -> dict[int, Tensor]:
    """Return by layer the hidden states of prompts, [words, TOKENS, hidden]; the last is before the final norm."""
    layers = range(llm.num_layers + 1)
    run = lambda: llm.decoder(inputs_embeds=prompts, use_cache=False)  # noqa: E731 (it is passed on)
    return llm.collect(run, layers, prompts.shape[0] * prompts.shape[1])


def read(lens: Lens, states: Tensor, layer: int) -> list[list[list[Neighbor]]]:
    """Return five neighbors of each virtual token of each prompt; `states` are [words, TOKENS, hidden]."""
    flat = lens.read(Queries(states.flatten(0, 1).clone(), layer, "other"), 5)
    return [flat[at : at + TOKENS] for at in range(0, len(flat), TOKENS)]


def scores(
    found: Sequence[Sequence[Sequence[Neighbor]]], words: Sequence[str]
) -> dict[str, npt.NDArray[np.float64]]:
    """Return for each word whether it is named, 1 or 0: by any virtual token, by all together, by each alone."""
    named: dict[str, list[float]] = {}
    for tokens, word in zip(found, words, strict=True):
        each = [_names(neighbors, word) for neighbors in tokens]
        pooled = sorted((one for neighbors in tokens[1:] for one in neighbors), key=lambda one: -one.score)[
            :5
        ]
        hits = {"any": any(each), "pooled": _names(pooled, word), "last": each[-1]}
        for name, hit in (hits | {f"token {n}": hit for n, hit in enumerate(each, 1)}).items():
            named.setdefault(name, []).append(float(hit))
    return {name: np.array(hits) for name, hits in named.items()}


def _names(found: Sequence[Neighbor], word: str) -> bool:
    """Return whether a word, or its plural in s or es, is among neighbors."""
    return bool({one.word.strip().casefold() for one in found} & {word, f"{word}s", f"{word}es"})


def measure(
    lens: Lens, kinds: Mapping[str, Mapping[int, Tensor]], words: Sequence[str], layers: Sequence[int]
) -> dict[int, Any]:
    """Return the shares by layer and kind of prompt. Each word is also looked for in the next word's prompt."""
    shares: dict[int, Any] = {}
    for layer in layers:
        found = {kind: read(lens, by_layer[layer], layer) for kind, by_layer in kinds.items()}
        shares[layer] = {kind: shares_of(scores(rows, words)) for kind, rows in found.items()}
        shares[layer]["another word"] = shares_of(scores(found["tuned"], [*words[1:], words[0]]))
    return shares


def shares_of(named: Mapping[str, npt.NDArray[np.float64]]) -> dict[str, list[float]]:
    """Return each share in % with its 95 % interval, from resampled words."""
    chance = np.random.default_rng(0)
    count = len(next(iter(named.values())))
    drawn = chance.integers(0, count, (RESAMPLES, count))
    return {
        name: [
            round(float(100 * value), 1)
            for value in (hits.mean(), *np.quantile(hits[drawn].mean(axis=1), (0.025, 0.975)))
        ]
        for name, hits in named.items()
    }


def examples(lens: Lens, states: Tensor, words: Sequence[str], layer: int) -> list[str]:
    """Return for some words the words of each virtual token, for people."""
    some = words[:: max(1, len(words) // 8)]
    found = read(lens, torch.stack([states[words.index(word)] for word in some]), layer)
    return [
        f"{word}: " + " | ".join(" ".join(one.word for one in token) for token in tokens)
        for word, tokens in zip(some, found, strict=True)
    ]


def _rows(shares: Mapping[str, Any], layer: int) -> list[Row]:
    def text(share: Sequence[float]) -> str:
        return f"{share[0]:.0f} % ({share[1]:.0f} to {share[2]:.0f})"

    rows = []
    for lens, by_layer in shares.items():
        for at, kinds in by_layer.items():
            for how in ("any", "pooled", "last"):
                own, random = kinds["tuned"][how], kinds["random"][how]
                target = 60 if (lens, at, how) == ("LatentLens", layer, "any") else None
                rows.append(
                    Row(f"{lens}, layer {at}, {how}", text(random), text(own), own[0], " %", least=target)
                )
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("benchmarks.soft_prompts", __doc__)
    parser.add_argument("--bank", default="descriptive")
    parser.add_argument("--data-dir", help="folder of embedded banks")
    parser.add_argument("--model", help="a folder of the bank's LLM; by default where this machine knows it")
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps the tuned prompts")
    parser.add_argument("--words", type=int, default=50)
    parser.add_argument("--held-out", type=int, default=20, help="words whose prompts choose the layer")
    parser.add_argument(
        "--enough", type=float, default=0.9, help="probability of the word at which tuning ends"
    )
    parser.add_argument("--text", default=TEXT, help="what stands behind a prompt while it is tuned")
    parser.add_argument("--rate", type=float, default=RATE, help="Adam's learning rate")
    parser.add_argument("--steps", type=int, default=300, help="at most")
    parser.add_argument("--every", type=int, default=4, help="every so many layers is tried")
    parser.add_argument("--dtype", default="float32", help="of the model while prompts are tuned")
    parser.add_argument("--json", type=Path)
    return parser


if __name__ == "__main__":
    main()
