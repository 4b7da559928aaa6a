"""AdamW over the projector and, if it is trained, the language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from accelerate.utils import reduce
from torch import Tensor, nn

from latentbank.models.training.stages import Stage, TrainSettings


class Optimizer:
    """AdamW with a learning rate and a largest gradient norm for each of its parts, over all processes.

    Attributes:
        adam: the optimizer of torch, with a group for each part.
    """

    def __init__(
        self, projector: Sequence[nn.Parameter], llm: Sequence[nn.Parameter], settings: TrainSettings
    ) -> None:
        """Prepare the optimizer; `llm` is empty if the LLM is frozen."""
        self._parts = [list(part) for part in (projector, llm) if part]
        self._clip = settings.clip
        for parameter in (parameter for part in self._parts for parameter in part):
            # A process whose share of a step is empty sends zeros, because the others wait for its message.
            parameter.grad = torch.zeros_like(parameter)
        self.adam = torch.optim.AdamW(
            [{"params": part} for part in self._parts],
            lr=0.0,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
        )

    def clear(self) -> None:
        """Set all gradients to zero."""
        self.adam.zero_grad(set_to_none=False)

    def share(self, num_processes: int) -> None:
        """Sum the gradients over all processes: those of the projector in one message, of the LLM one by one."""
        if num_processes == 1:
            return
        projector, *llm = self._parts
        gradients = [cast(Tensor, parameter.grad) for parameter in projector]
        whole = reduce(torch.cat([gradient.flatten() for gradient in gradients]), "sum")
        start = 0
        for gradient in gradients:
            gradient.copy_(whole[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()
        for parameter in (parameter for part in llm for parameter in part):
            gradient = cast(Tensor, parameter.grad)
            gradient.copy_(reduce(gradient, "sum"))

    def clip(self) -> Tensor:
        """Bound the norm of each part's gradient; return the projector's before that, infinite if one is not finite."""
        norms = torch.stack([torch.nn.utils.clip_grad_norm_(part, self._clip) for part in self._parts])
        return torch.where(norms.isfinite().all(), norms[0], torch.inf)

    def step(self, stage: Stage, done: float) -> None:
        """Change the weights, when the share `done` of a stage is over."""
        rates = (stage.rate_at(done), stage.llm_rate_at(done))
        for group, rate in zip(self.adam.param_groups, rates, strict=False):
            group["lr"] = rate
        self.adam.step()
