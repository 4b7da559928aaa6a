"""What a plan costs, before anything is loaded: GPU hours, disk, and the judge's calls. Plain arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from latentbank.bank.sizing import GB, Machines, Shape, layer_bytes, size
from latentbank.query.reproduction.plan import JudgePlan, ModelPlan, Plan

_CAPTION_BYTES = 30.0  # of a context's sentence
_TEXT_TOKENS = 30  # beside the visual tokens of an image
_JUDGE_IN, _JUDGE_OUT = 1_200, 300  # tokens of a question with its two pictures, and of an answer
_PASSES = 3  # over the images: readings, norms, drift
_CONTROLS = 0.2  # of the questions, as many controls


@dataclass(frozen=True)
class ModelCost:
    """What a model of the plan costs.

    Attributes:
        name: the model's.
        bank_hours: GPU hours to fill its bank with all sizes of the corpus; 0 if an earlier model of the plan has the
            same LLM.
        reading_hours: GPU hours to read the images.
        bank_gb: disk of its banks in GB; 0 as above.
        calls: questions to the judge.
    """

    name: str
    bank_hours: float
    reading_hours: float
    bank_gb: float
    calls: int


@dataclass(frozen=True)
class Cost:
    """What a plan costs.

    Attributes:
        models: model by model.
        gpu_hours: in all.
        disk_gb: of all banks.
        calls: questions to the judge; 0 if the ground truth judges.
        judge_cost: their price, by the plan's prices.
    """

    models: tuple[ModelCost, ...]
    gpu_hours: float
    disk_gb: float
    calls: int
    judge_cost: float

    def to_dict(self) -> dict[str, Any]:
        """Return the costs as JSON-ready data (docs/json.md describes it)."""
        return asdict(self)


def estimate(plan: Plan) -> Cost:
    """Return what a plan costs, from the sizes that it names.

    The GPU is assumed to reach `plan.gpu_flops`. Searching and storing run on the CPU beside it, and are not counted.
    """
    models: list[ModelCost] = []
    seen: set[tuple[float, int, int]] = set()
    for model in plan.models:
        llm = (model.parameters, model.llm_layers, model.hidden_size)
        models.append(_model(plan, model, new=llm not in seen))
        seen.add(llm)
    calls = sum(model.calls for model in models)
    return Cost(
        tuple(models),
        gpu_hours=sum(model.bank_hours + model.reading_hours for model in models),
        disk_gb=sum(model.bank_gb for model in models),
        calls=calls,
        judge_cost=calls * _price(plan),
    )


def _model(plan: Plan, model: ModelPlan, *, new: bool) -> ModelCost:
    visual, layers = plan.layers_of(model.llm_layers)
    images = plan.count * (model.tokens + _TEXT_TOKENS)
    smaller = _smaller(plan, model)
    passes = _PASSES + len(smaller)
    reading = 2.0 * model.parameters * images * passes / plan.gpu_flops / 3600
    hours = disk = 0.0
    if new or smaller:
        for share in [*([1.0] if new else []), *smaller]:
            tokens = plan.corpus.tokens_per_sentence * (plan.corpus.sentences or 0) * share
            contexts = max(1, round((plan.corpus.contexts or tokens) * share))
            shape = Shape(contexts, len(layers), model.hidden_size, _CAPTION_BYTES, server=False)
            sizing = size(shape, Machines(gpu_flops=plan.gpu_flops), tokens, model.parameters)
            hours += sizing.llm_hours
            disk += len(layers) * layer_bytes(shape).disk / GB
    return ModelCost(model.name, hours, reading, disk, _calls(plan, model, len(visual), smaller))


def _smaller(plan: Plan, model: ModelPlan) -> Sequence[float]:
    if model.name not in plan.smaller:
        return ()
    return [share / 100 for share in plan.corpus_sizes if share < 100]


def _calls(plan: Plan, model: ModelPlan, layers: int, smaller: Sequence[float]) -> int:
    """Return the number of questions about a model: each lens and number of words, and LatentLens alone by size."""
    if not isinstance(plan.judge, JudgePlan) or model.random:
        return 0
    images = min(plan.judge.images, plan.count)
    noise = any(other.random and other.weights() == model.weights() for other in plan.models)
    each = 1 + _CONTROLS * (1 + noise)
    asked = len(plan.lenses) * len(plan.words) * each + len(smaller)
    return round(images * layers * asked)


def _price(plan: Plan) -> float:
    if not isinstance(plan.judge, JudgePlan):
        return 0.0
    return (_JUDGE_IN * plan.judge.price_in + _JUDGE_OUT * plan.judge.price_out) / 1e6
