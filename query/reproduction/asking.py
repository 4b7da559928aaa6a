"""A judge behind an endpoint in a reproduction: one random token of each image, with blind controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from latentbank.errors import LatentBankError
from latentbank.progress import Progress
from latentbank.query.judging.answers import open_answers
from latentbank.query.judging.endpoint import Endpoint, key_from
from latentbank.query.judging.judge import Prices, ask
from latentbank.query.judging.questions import find_questions
from latentbank.query.judging.sources import sources_of
from latentbank.query.judging.verdicts import Verdict
from latentbank.query.reproduction.plan import JudgePlan
from latentbank.query.reproduction.world import JudgeTask

_FAILED = 0.05  # the share of questions that may stay without an answer


@dataclass(frozen=True)
class EndpointJudge:
    """Asks a model which words describe what a token sees; every answer is kept and never asked for again.

    Attributes:
        plan: the judge of the plan.
        images: where the images are, as they were read.
        answers: folder in which answers are kept.
    """

    plan: JudgePlan
    images: Sequence[str]
    answers: Path

    def __call__(self, task: JudgeTask, progress: Progress) -> list[Verdict]:
        """Ask all questions and return the verdicts; they bear the plan's name of the model.

        Raises:
            LatentBankError: the endpoint refuses the key or does not answer, or too many questions have no answer.
        """
        plan = self.plan
        progress.stage(f"choosing tokens ({task.model})", "images")
        questions = find_questions(
            [task.readings],
            images=plan.images,
            words=task.words,
            lenses=task.lenses,
            seed=plan.seed,
            random_projector=[] if task.noise is None else [task.noise],
            progress=progress,
        ).asked
        progress.stage(f"judging ({task.model})", "questions")
        endpoint = Endpoint(
            plan.model,
            plan.base_url.rstrip("/"),
            key_from(plan.key_variable, plan.base_url),
            plan.request,
            concurrency=plan.concurrency,
            rate=plan.rate,
        )
        prices = Prices(plan.price_in, plan.price_out) if plan.price_in or plan.price_out else None
        with open_answers(self.answers, endpoint.base_url, plan.model) as answers:
            sources = sources_of(questions, self.images)
            verdicts = ask(questions, endpoint, sources, answers, prices=prices, progress=progress)
        failed = sum(verdict.state == "failed" for verdict in verdicts)
        if failed > _FAILED * len(verdicts):
            raise LatentBankError(
                f"{failed:,} of {len(verdicts):,} questions got no answer; run again to ask them again."
            )
        return [replace(one, subject=replace(one.subject, model=task.model)) for one in verdicts]
