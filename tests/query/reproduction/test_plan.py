"""Plans from YAML, what they cost, and the numbers that were published."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from latentbank.demo.reproduction import PRESET
from latentbank.errors import QueryError
from latentbank.query.reproduction.estimate import estimate
from latentbank.query.reproduction.measured import SOURCES, Measured, published
from latentbank.query.reproduction.plan import PAPER, JudgePlan, plan_from, read_plan

GOOD: dict[str, Any] = {
    "title": "t",
    "images": ["photos"],
    "corpus": {"source": "captions.txt", "sentences": 1000},
    "judge": {"model": "j", "price_in": 1.0, "price_out": 10.0},
    "models": [{"name": "a", "model": "x/a"}, {"name": "b", "model": "x/b", "hidden_size": 2048}],
}


def test_a_plan_has_defaults() -> None:
    plan = plan_from(GOOD, "plan.yaml")
    assert isinstance(plan.judge, JudgePlan)
    assert plan.smaller == ("a",)
    assert plan.layers_of(32) == ([0, 1, 2, 4, 8, 16, 24, 30, 31], [1, 2, 4, 8, 16, 24, 30, 31])
    assert plan_from(GOOD | {"visual_layers": [0, 8]}, "plan.yaml").layers_of(32)[0] == [0, 8]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"judge": "truth"}, "truth knows only the images of demo"),
        ({"judge": "anybody"}, "judge: it is truth, or an endpoint"),
        ({"models": []}, "models: name at least one"),
        ({"models": [{"name": "a/b", "model": "x"}]}, "a name can hold letters"),
        ({"corpus": {"source": "c.txt"}}, "corpus.sentences: it must be known"),
        ({"corpus_sizes": [0, 100]}, "above 0 and at most 100"),
        ({"corpus_models": ["c"]}, "it can name a, b"),
        ({"words": []}, "words: name at least one number"),
        ({"lense": ["latent"]}, "lense: Unexpected keyword argument"),
        ({"count": "many"}, "count: Input should be a valid integer"),
        ({"models": [{"name": "a"}]}, r"models\.0\.model: Field required"),
    ],
)
def test_what_a_plan_cannot_say(change: dict[str, Any], message: str) -> None:
    with pytest.raises(QueryError, match=f"^p.yaml: .*{message}"):
        plan_from(GOOD | change, "p.yaml")


def test_a_plan_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    with pytest.raises(QueryError, match="cannot be read"):
        read_plan(file)
    file.write_text("models: [")
    with pytest.raises(QueryError, match="is not YAML"):
        read_plan(file)
    file.write_text("just text")
    with pytest.raises(QueryError, match=r"plan\.yaml: the plan: "):
        read_plan(file)


def test_the_report_shows_no_path_and_no_address() -> None:
    data = plan_from(
        GOOD
        | {
            "images": ["/home/me/photos"],
            "corpus": {"source": "/home/me/c.txt", "sentences": 9},
            "models": [{"name": "a", "model": "/home/me/p.safetensors"}],
            "judge": {"model": "j", "base_url": "http://user:key@host"},
        },
        "p.yaml",
    ).to_dict()
    assert "/home" not in str(data)
    assert "host" not in str(data)


def test_costs_add_up() -> None:
    plan = plan_from(GOOD, "p.yaml")
    cost = estimate(plan)
    a, b = cost.models
    # 100 images, nine layers, three lenses, two numbers of words, a fifth of controls; LatentLens at three sizes.
    assert a.calls == round(100 * 9 * (3 * 2 * 1.2 + 3))
    assert b.calls == round(100 * 9 * 3 * 2 * 1.2)
    assert a.bank_hours == pytest.approx(2 * 7e9 * 6000 * 1.111 / 1e14 / 3600)
    assert b.bank_hours == pytest.approx(2 * 7e9 * 6000 / 1e14 / 3600)
    assert cost.judge_cost == pytest.approx(cost.calls * (1200 + 3000) / 1e6)
    assert cost.gpu_hours == pytest.approx(sum(m.bank_hours + m.reading_hours for m in cost.models))


def test_presets_can_be_read() -> None:
    demo, paper = read_plan(PRESET), read_plan(PAPER)
    assert demo.count <= 60
    assert len(demo.visual_layers or ()) <= 4
    assert estimate(demo).calls == 0
    assert len(paper.models) == 14
    assert not any(model.trust_remote_code for model in paper.models)
    published_for = {row.model for row in published() if row.figure == "alignment"}
    assert published_for - {model.name for model in paper.models} == {"Molmo-7B-D", "Molmo-72B"}
    assert 1 < estimate(paper).gpu_hours < 50


def of(figure: str, **given: Any) -> list[Measured]:
    rows = [row for row in published() if row.figure == figure]
    return [row for row in rows if all(getattr(row, name) == value for name, value in given.items())]


def test_published_numbers_are_those_of_the_paper() -> None:
    """What the paper and its authors say in words comes out of the rows."""
    assert {row.source for row in published()} == SOURCES.keys()
    shares = of("shares", kind="any", layer=None)
    for lens, average in (("latent", 0.68), ("logit", 0.24), ("embedding", 0.32)):
        models = [
            row for row in shares if row.lens == lens and not row.model.startswith(("average", "olmo-vit,"))
        ]
        assert len(models) == 15
        assert fmean(row.value for row in models) == pytest.approx(average, abs=0.005)
        assert [row.value for row in shares if row.lens == lens and row.model.startswith("average")] == [
            average
        ]
    linear = [row.value for row in shares if row.model == "olmo-vit, linear" and row.lens == "latent"]
    assert linear == [pytest.approx(0.721, abs=0.0005)]
    by_size = [fmean(row.value for row in of("corpus", at=size)) for size in (0.1, 1, 10, 100)]
    assert by_size == pytest.approx([0.584, 0.673, 0.725, 0.716], abs=0.0005)
    first = [fmean(row.value for row in of("pass", lens=lens)) for lens in ("latent", "embedding", "logit")]
    assert first == pytest.approx([0.49, 0.18, 0.09], abs=0.005)


def test_the_leap_is_where_the_paper_says() -> None:
    peaks: dict[str, float | None] = {}
    for model in {row.model for row in of("alignment")}:
        peaks[model] = max(of("alignment", model=model, layer=0), key=lambda row: row.value).at
    nine = [at for model, at in peaks.items() if model.split("-")[0] in ("olmo", "llama", "qwen")]
    assert sorted(at or 0 for at in nine) == [4, 8, 8, 8, 8, 8, 8, 16, 16]
    assert len(peaks) == 15
