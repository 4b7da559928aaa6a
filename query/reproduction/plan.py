"""The plan of a reproduction: models, images, corpus, lenses and layers, and who judges; read from a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from latentbank.errors import QueryError
from latentbank.layers import paper_layers, paper_visual_layers
from latentbank.text import listed, public_name

DEMO, TRUTH = "demo", "truth"
"""Names in plans: the demo's images and sentences, and a judge that knows what these images show."""

PAPER = Path(__file__).parent / "presets" / "paper.yaml"
"""The plan of the preset `paper`."""

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class ModelPlan:
    """A model whose visual tokens are read.

    Attributes:
        name: what tables call it, and its folders: letters, digits, `.`, `_` and `-`.
        model: a hub id, a folder, a projector's file or `demo`, as `load_visual_model` takes it; with `connector`, the
            folder or hub id of the authors' connectors.
        connector: name of a connector that the authors released, such as `olmo-vit`; it is imported first.
        revision: branch, tag or commit of a hub model.
        trust_remote_code: run the Python code that comes with the model (Molmo). Only for authors you trust.
        note: what the report says about it, such as how it was trained.
        random: replace its projector by one of random weights: the control.
        parameters: parameters of its LLM's blocks, for the estimate.
        tokens: visual tokens of an image, for the estimate.
        llm_layers: number of layers of its LLM, for the estimate.
        hidden_size: width of its LLM, for the estimate.
    """

    __pydantic_config__ = _STRICT

    name: str
    model: str
    connector: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    note: str = ""
    random: bool = False
    parameters: float = 7e9
    tokens: int = 576
    llm_layers: int = 32
    hidden_size: int = 4096

    def identity(self) -> dict[str, Any]:
        """Return what its readings depend on."""
        return {**self.weights(), "random": self.random}

    def weights(self) -> dict[str, Any]:
        """Return what tells it from other models, but for a random projector."""
        return {"model": self.model, "connector": self.connector, "revision": self.revision}


@dataclass(frozen=True)
class CorpusPlan:
    """The sentences of the bank.

    Attributes:
        source: `demo`, a file, a folder or a hub id, as `fill` takes it.
        recipe: name of a recipe that cleans the source and chooses its contexts, such as `visual-genome`.
        column: its column of sentences; None: it is found.
        split: split of a dataset.
        sentences: read at most this many; None: all. Shares of the corpus are of this number, so it must be known: for
            sizes other than 100 %, and for the estimate.
        settings: how contexts are chosen (`skip`, `contexts_per_token`, `bos`, `max_tokens`), as `fill` takes them.
        tokens_per_sentence: for the estimate.
        contexts: contexts in a layer, for the estimate; None: as many as tokens.
    """

    __pydantic_config__ = _STRICT

    source: str
    recipe: str | None = None
    column: str | None = None
    split: str | None = None
    sentences: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    tokens_per_sentence: float = 6.0
    contexts: int | None = None

    def identity(self) -> dict[str, Any]:
        """Return what its contexts depend on."""
        data = asdict(self)
        return {name: data[name] for name in ("source", "recipe", "column", "split", "sentences", "settings")}


@dataclass(frozen=True)
class JudgePlan:
    """Who judges: a model behind an endpoint that speaks the API of OpenAI.

    Attributes:
        model: the judge's name.
        base_url: the endpoint's address, up to and with `/v1`.
        key_variable: variable of the environment that holds the key; None: as `key_from` does it.
        request: further fields of each request.
        rate: most requests a minute; None: no limit but the endpoint's own.
        concurrency: questions on their way at once.
        images: images judged at each layer, one token of each.
        seed: seed of the tokens.
        price_in: price of a million tokens of input, for the estimate.
        price_out: price of a million tokens of output.
    """

    __pydantic_config__ = _STRICT

    model: str
    base_url: str = "https://api.openai.com/v1"
    key_variable: str | None = None
    request: Mapping[str, Any] = field(default_factory=dict)
    rate: float | None = None
    concurrency: int = 16
    images: int = 100
    seed: int = 42
    price_in: float = 0.0
    price_out: float = 0.0

    def identity(self) -> dict[str, Any]:
        """Return what its verdicts depend on."""
        about = {"model": self.model, "request": dict(self.request)}
        return about | {"images": self.images, "seed": self.seed}


@dataclass(frozen=True)
class Plan:
    """What is reproduced.

    Attributes:
        title: the report's.
        models: the models; those of one LLM share a bank.
        images: `demo`, or paths of files and folders.
        count: read at most this many images.
        corpus: the sentences of the bank.
        judge: `truth`, or an endpoint.
        visual_layers: layers that visual tokens are taken from; None: the paper's.
        bank_layers: the bank's layers; None: the paper's.
        lenses: names of lenses.
        words: numbers of words that the judge sees; the first is that of the main table.
        corpus_sizes: shares of the corpus in percent.
        corpus_models: names of the models that are read with smaller corpora; None: the first.
        seed: seed of all choices.
        device: where models run, as `load_visual_model` takes it.
        dtype: their dtype.
        gpu_flops: operations per second that an LLM reaches on the GPU, for the estimate.
    """

    __pydantic_config__ = _STRICT

    title: str
    models: tuple[ModelPlan, ...]
    images: str | tuple[str, ...]
    corpus: CorpusPlan
    judge: str | JudgePlan
    count: int = 100
    visual_layers: tuple[int, ...] | None = None
    bank_layers: tuple[int, ...] | None = None
    lenses: tuple[str, ...] = ("latent", "logit", "embedding")
    words: tuple[int, ...] = (5, 1)
    corpus_sizes: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0)
    corpus_models: tuple[str, ...] | None = None
    seed: int = 0
    device: str | None = None
    dtype: str | None = None
    gpu_flops: float = 1e14

    def layers_of(self, num_layers: int) -> tuple[list[int], list[int]]:
        """Return visual layers and bank layers for an LLM with `num_layers` layers."""
        visual = self.visual_layers or paper_visual_layers(num_layers)
        return list(visual), list(self.bank_layers or paper_layers(num_layers))

    @property
    def smaller(self) -> tuple[str, ...]:
        """The names of the models that are read with smaller corpora."""
        first = tuple(model.name for model in self.models[:1])
        return first if self.corpus_models is None else self.corpus_models

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-ready data, with no path of this machine."""
        data = asdict(self)
        data["models"] = [model | {"model": public_name(model["model"])} for model in data["models"]]
        if self.images != DEMO:
            data["images"] = [public_name(path) for path in _paths(self.images)]
        data["corpus"]["source"] = public_name(self.corpus.source)
        if isinstance(self.judge, JudgePlan):
            for name in ("base_url", "key_variable"):
                data["judge"].pop(name)
        return data


def read_plan(path: Path) -> Plan:
    """Read a plan from a YAML file. Paths in it count from the file's folder.

    Raises:
        QueryError: the file cannot be read, or something in it is not allowed; the message names it.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise QueryError(f"{path} cannot be read ({error.strerror or error}).") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise QueryError(f"{path} is not YAML ({reason}).") from None
    return plan_from(data, path.name)


def plan_from(data: Any, where: str) -> Plan:
    """Return the plan that data from YAML describe; `where` names them in messages.

    Raises:
        QueryError: something in it is not allowed.
    """
    try:
        plan = _adapter().validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        parts = [str(part) for part in first["loc"] if not str(part)[:1].isupper()]
        raise QueryError(f"{where}: {'.'.join(parts) or 'the plan'}: {first['msg']}.") from None
    _check(plan, where)
    return plan


@cache
def _adapter() -> TypeAdapter[Plan]:
    return TypeAdapter(Plan)


def _check(plan: Plan, where: str) -> None:
    """Check what types alone do not say."""
    names = [model.name for model in plan.models]
    problems = {
        "models: name at least one, and give each a name of its own": not names
        or len(set(names)) < len(names),
        "models: a name can hold letters, digits, '.', '_' and '-'": not all(
            name.replace("-", "").replace("_", "").replace(".", "").isalnum() for name in names
        ),
        f"corpus_models: it can name {listed(names)}": not set(plan.smaller) <= set(names),
        "count: at least two images are needed": plan.count < 2,
        "words: name at least one number, each above zero": not plan.words or min(plan.words) < 1,
        "corpus_sizes: these are percent, above 0 and at most 100": not all(
            0 < size <= 100 for size in plan.corpus_sizes
        ),
        "corpus.sentences: it must be known, as corpus_sizes are shares of it": plan.corpus.sentences is None
        and any(size < 100 for size in plan.corpus_sizes)
        and bool(plan.smaller),
        "corpus.settings: a recipe has its own; leave them out": plan.corpus.recipe is not None
        and bool(plan.corpus.settings),
        f"judge: it is {TRUTH}, or an endpoint with a model": isinstance(plan.judge, str)
        and plan.judge != TRUTH,
        f"judge: {TRUTH} knows only the images of {DEMO}": plan.judge == TRUTH and plan.images != DEMO,
    }
    for problem, found in problems.items():
        if found:
            raise QueryError(f"{where}: {problem}.")


def _paths(images: str | tuple[str, ...]) -> tuple[str, ...]:
    return (images,) if isinstance(images, str) else images
