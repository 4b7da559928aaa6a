"""Training a projector between a frozen vision encoder and a language model, and the language model if requested."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import reduce
from torch import Tensor

from latentbank.errors import ModelError
from latentbank.locks import alone_in
from latentbank.models.composite.captions import CaptionLoss, caption_loss, write_captions
from latentbank.models.composite.layout import Frame, Layout
from latentbank.models.composite.model import check_card
from latentbank.models.composite.projector import save_projector
from latentbank.models.language.model import LanguageModel
from latentbank.models.training.batches import Batch, Sequences
from latentbank.models.training.card import card_of, named, remember_models
from latentbank.models.training.dropout import ResponseDropout
from latentbank.models.training.features import Features
from latentbank.models.training.finetuning import FOLDER, TrainedLanguage
from latentbank.models.training.log import (
    Checkpoint,
    draw_losses,
    load_checkpoint,
    save_checkpoint,
    write_log,
)
from latentbank.models.training.optimizing import Optimizer
from latentbank.models.training.processes import processes
from latentbank.models.training.prompts import Prompts
from latentbank.models.training.stages import Stage, TrainSettings, check_stages
from latentbank.models.training.starting import first_projector, image_tokens, sequences_of
from latentbank.places import data_folder
from latentbank.progress import Progress, Silent

RESULT = "projector.safetensors"


def train_projector(
    stages: Sequence[Stage],
    language: LanguageModel,
    settings: TrainSettings,
    directory: str | os.PathLike[str],
    *,
    validation: Features | None = None,
    init: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train a projector on image-caption pairs.

    A training that was killed continues from the last checkpoint when it is run again. The loss is the mean
    cross-entropy of the caption's tokens and the end of sequence. The encoder is frozen, and so is the LLM, unless a
    stage has an `llm_rate`: its blocks and final norm are then trained, too, and `language` changes. Under `accelerate
    launch` each process takes a part of the rows of every step. If the stages have steps (not seconds) and the number
    of processes is the same, a resumed training ends with exactly the weights of an uninterrupted one.

    Args:
        stages: run one after the other, over features of one encoder.
        language: the LLM, loaded whole.
        settings: the settings of the training.
        directory: gets `projector.safetensors` and its card `projector.json`, `log.jsonl`, `loss.png` (if matplotlib
            is installed), the folder `llm` if the LLM is trained, and, while the training runs, `checkpoint.pt`.
        validation: rows that are not trained on; None: no validation.
        init: a projector file to start from, trained between the same models.
        data_dir: the folder of embedded banks, in which this machine remembers where local models are, as the card
            holds no path. None: that of the settings.
        progress: gets the number of steps, or of seconds.

    Returns:
        The projector's file. If this same training is already finished, nothing is trained.

    Raises:
        ModelError: `directory` holds another training, `init` is from other models, the LLM is loaded in part, or in
            another dtype than float32 although it is trained, or the loss is not finite.
        LatentBankError: a file cannot be written, or another process trains in the directory.

    Examples:
        >>> import latentbank as lb
        >>> from latentbank.models.training.features import cache_features
        >>> from latentbank.models.training.pairs import open_pairs
        >>> from latentbank.models.training.stages import Stage, TrainSettings
        >>> from latentbank.models.vision.encoders import load_encoder
        >>> encoder = load_encoder("openai/clip-vit-base-patch32")
        >>> model = lb.load_language_model("HuggingFaceTB/SmolLM2-135M")
        >>> features = cache_features(encoder, open_pairs("pairs"), "features", "pairs")
        >>> stages = [Stage(features, steps=2, batch=2)]
        >>> projector = lb.train_projector(stages, model, TrainSettings(projector="mlp"), "trained")
        >>> vlm = lb.load_visual_model(str(projector))
    """
    check_stages(stages, language, validation)
    run = _Run(stages, language, settings, Path(directory), validation, init, progress or Silent())
    finished = run.finished()
    if run.state.is_main_process:  # before the LLM may be trained, and then is another one
        remember_models(stages[0].features, language, data_folder(data_dir))
    if not finished:
        # The processes of one run are one job.
        alone = alone_in(run.directory, f"trains in {run.directory}")
        with alone if run.state.is_main_process else nullcontext():
            if not run.finished():
                run.train()
    return run.directory / RESULT


@dataclass
class _Run:
    """A training run."""

    stages: Sequence[Stage]
    language: LanguageModel
    settings: TrainSettings
    directory: Path
    validation: Features | None
    init: str | os.PathLike[str] | None
    progress: Progress
    at: Checkpoint = field(init=False)
    llm: TrainedLanguage | None = field(init=False, default=None)
    before: dict[str, Any] = field(init=False, default_factory=dict)
    dropout: ResponseDropout | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.state = processes(self.language.device.type)
        self.identity = self._identity(self.language.identity().up_to(self.language.num_layers))
        self.sequences = [sequences_of(stage.features, self.language, self.settings) for stage in self.stages]
        self.validation_sequences = None
        if self.validation is not None:
            self.validation_sequences = sequences_of(self.validation, self.language, self.settings)

    def finished(self) -> bool:
        """Return whether the directory already holds the result of this training."""
        path = self.directory / "projector.json"
        if not path.is_file():
            return False
        card = json.loads(path.read_text(encoding="utf-8"))
        known = card.get("training", {}).get("identity")
        if known == self._former_identity():
            features = self.stages[0].features
            check_card(card, features.encoder, features.fingerprint, self.language)
        elif known != self.identity:
            raise ModelError(
                f"{self.directory} holds the projector of another training: use another directory, or delete it."
            )
        return True

    def train(self) -> None:
        """Run the stages, from the checkpoint if there is one."""
        self.head: CaptionLoss = caption_loss(self.language)
        if self.settings.dropout:
            self.dropout = ResponseDropout(self.language, self.settings.dropout)
        features = self.stages[0].features
        self.projector = first_projector(features, self.language, self.settings, self.init)
        self.projector.to(self.language.device)
        if any(stage.llm_rate is not None for stage in self.stages):
            self.before = named(self.language)
            self.llm = TrainedLanguage(self.language)
        llm = () if self.llm is None else tuple(self.llm.weights.values())
        self.optimizer = Optimizer(list(self.projector.parameters()), llm, self.settings)
        self.at = self._resume()
        self.saved = time.monotonic()
        for number in range(self.at.stage, len(self.stages)):
            self._stage(number)
        self._finish()

    # -- stages and steps --------------------------------------------------------------------------

    def _stage(self, number: int) -> None:
        stage, sequences, at = self.stages[number], self.sequences[number], self.at
        self.progress.stage(f"training, stage {number + 1}", "steps" if stage.steps else "s")
        started = time.monotonic() - at.elapsed
        order: list[list[int]] = []
        turn = -1
        while True:
            # The middle of the step; otherwise the rate of the first step would be zero.
            done = (at.step + 0.5) / stage.steps if stage.steps else self._clock(stage)
            if done >= 1:
                break
            passes = math.ceil(len(sequences.lengths) / stage.batch)
            if turn != at.step // passes:
                turn = at.step // passes
                order = sequences.order(stage.batch, (self.settings.seed, number, turn))
            seed = (self.settings.seed, number, turn)
            loss, norm = self._step(sequences, order[at.step % passes], seed)
            self.optimizer.step(stage, done)
            at.step += 1
            at.total += 1
            at.elapsed = time.monotonic() - started
            self._note(number, loss, norm, stage.rate_at(done))
            self.progress.update(at.step if stage.steps else at.elapsed, stage.steps or stage.seconds)
            if at.total % self.settings.validate_every == 0:
                self._validate(number)
            self._save_sometimes()
        at.seconds += at.elapsed
        at.stage, at.step, at.elapsed = number + 1, 0, 0.0

    def _step(self, sequences: Sequences, rows: list[int], seed: tuple[int, ...]) -> tuple[float, float]:
        """Compute the gradient over `rows`; return the loss per token and the projector's norm before clipping."""
        total = int(sequences.counts[rows].sum())
        parts = self.settings.accumulate * self.state.num_processes
        own = [part.tolist() for part in np.array_split(np.array(rows), parts)]
        own = own[self.state.process_index :: self.state.num_processes]
        loss = torch.zeros((), device=self.language.device)
        self.optimizer.clear()
        for part in own:
            if part:
                piece = self._dropped_loss(sequences, part, seed) / total
                torch.autograd.backward(piece)
                loss += piece.detach()
        self.optimizer.share(self.state.num_processes)
        loss = reduce(loss, "sum")
        norm = self.optimizer.clip()
        if not bool(torch.isfinite(loss) & torch.isfinite(norm)):
            raise ModelError(
                f"The loss is not finite after {self.at.total} steps: use float32 or bfloat16, or a lower rate.",
                argument="rate",
            )
        return float(loss), float(norm)

    def _dropped_loss(self, sequences: Sequences, rows: list[int], seed: tuple[int, ...]) -> Tensor:
        """Return the summed loss of `rows` in training, with dropout and the auxiliary loss."""
        batch, softmax_loss = sequences.batch(rows, seed), self.settings.softmax_loss
        if self.dropout is None:
            return self._loss(batch, sequences.layout, softmax_loss)
        row, position = (places.to(self.language.device) for places in batch.predicting)
        with self.dropout.on(row, position, [(*seed, number) for number in rows]):
            return self._loss(batch, sequences.layout, softmax_loss)

    def _loss(self, batch: Batch, layout: Layout, softmax_loss: float = 0.0) -> Tensor:
        """Return the summed loss of the captions of a batch."""
        device, frame = self.language.device, Frame(self.language, layout, self.projector.added)
        visual = frame.entering(self.projector(batch.features.to(device)))
        text = frame.embed(batch.ids.to(device))
        places = (batch.visual[0].to(device), batch.visual[1].to(device))
        inputs = text.index_put(places, visual)
        with self._products():
            output = self.language.decoder(inputs_embeds=inputs, use_cache=False).last_hidden_state
        predicting = output[batch.predicting[0].to(device), batch.predicting[1].to(device)]
        predicting = predicting.to(self.language.dtype)
        loss: Tensor = self.head(predicting, batch.targets.to(device), softmax_loss)
        return loss

    def _products(self) -> AbstractContextManager[object]:
        """Return a context for the LLM's forward passes: if it is trained, matrices are multiplied in `autocast`."""
        if self.llm is None or self.settings.autocast is None:
            return nullcontext()
        return torch.autocast(self.language.device.type, getattr(torch, self.settings.autocast))

    def _clock(self, stage: Stage) -> float:
        """Return the share of the stage's time that is over, the same in all processes although their clocks differ."""
        done = self.at.elapsed / (stage.seconds or 1)
        return float(reduce(torch.tensor(done, device=self.language.device), "max"))

    # -- logging and validation --------------------------------------------------------------------

    def _note(self, number: int, loss: float, norm: float, rate: float) -> None:
        at = self.at
        at.recent.append(loss)
        last = number + 1 == len(self.stages) and at.step == self.stages[number].steps
        if last or len(at.recent) == self.settings.log_every:
            mean = sum(at.recent) / len(at.recent)
            at.history.append(
                {"step": at.total, "stage": number + 1, "loss": mean, "norm": norm, "rate": rate}
            )
            at.recent.clear()
            self._write_log()

    @torch.no_grad()
    def _validate(self, number: int) -> None:
        if self.validation_sequences is None:
            return
        at, batch = self.at, self.stages[number].batch
        if at.history and at.history[-1].get("step") == at.total and "validation" in at.history[-1]:
            return
        own = self.validation_sequences.by_length(batch)[self.state.process_index :: self.state.num_processes]
        total = torch.zeros((), device=self.language.device)
        for rows in own:
            batch_of_rows = self.validation_sequences.batch(rows, (self.settings.seed,))
            total += self._loss(batch_of_rows, self.validation_sequences.layout)
        total = reduce(total, "sum")
        entry: dict[str, Any] = {
            "step": at.total,
            "stage": number + 1,
            "validation": float(total) / int(self.validation_sequences.counts.sum()),
        }
        features = self.validation_sequences.features
        shown = range(min(self.settings.samples, len(features)))
        frame = Frame(self.language, self.validation_sequences.layout, self.projector.added)
        visual = [
            frame.entering(self.projector(features.tokens(row).to(self.language.device))) for row in shown
        ]
        with self._products():
            written = write_captions(frame, self.head, visual)
        entry["samples"] = [
            {"caption": features.rows[row].caption, "written": text}
            for row, text in zip(shown, written, strict=True)
        ]
        at.history.append(entry)
        self._write_log()

    def _write_log(self) -> None:
        if self.state.is_main_process:
            write_log(self.directory, self.at.history)

    # -- starting, saving, finishing ---------------------------------------------------------------

    def _identity(self, llm: str) -> str:
        """Return a hash of everything that the result depends on; `llm` stands for the LLM."""
        whole = {
            "settings": self.settings.facts(),
            "stages": [stage.facts() for stage in self.stages],
            "llm": llm,
            "dtype": str(self.language.dtype),
            "init": None if self.init is None else hashlib.blake2b(Path(self.init).read_bytes()).hexdigest(),
        }
        return hashlib.blake2b(json.dumps(whole).encode(), digest_size=16).hexdigest()

    def _former_identity(self) -> str:
        """Return the hash that an earlier version wrote, which knew the LLM by its fingerprint alone."""
        return self._identity(self.language.fingerprint())

    def _resume(self) -> Checkpoint:
        found = load_checkpoint(self.directory)
        if found is None:
            return Checkpoint(self.identity)
        checkpoint, weights, moments, llm = found
        if checkpoint.identity == self._former_identity():
            checkpoint.identity = self.identity
        if checkpoint.identity != self.identity:
            raise ModelError(
                f"{self.directory} holds another training, unfinished: use another directory, or delete it."
            )
        self.projector.load_state_dict(weights)
        self.optimizer.adam.load_state_dict(moments)
        if self.llm is not None:
            self.llm.load(llm)
        return checkpoint

    def _save_sometimes(self) -> None:
        due = time.monotonic() - self.saved >= self.settings.save_every
        if due and self.state.is_main_process:
            llm = {} if self.llm is None else self.llm.state()
            save_checkpoint(self.directory, self.at, self.projector, self.optimizer.adam, llm)
            self.saved = time.monotonic()

    def _finish(self) -> None:
        self._validate(len(self.stages) - 1)
        if self.state.is_main_process:
            self._write_result()
        self.state.wait_for_everyone()

    def _write_result(self) -> None:
        at = self.at
        language = self.language
        if self.llm is not None:
            language = self.llm.save(
                self.directory / FOLDER, getattr(torch, self.settings.autocast or "float32")
            )
        card = card_of(self.stages, self.sequences, language, self.settings, at)
        if self.llm is not None:
            card["llm"]["trained_from"] = self.before
        card["training"]["validation_rows"] = 0 if self.validation is None else len(self.validation)
        if (image := image_tokens(self.language, self.settings)) is not None:
            card["image_tokens"] = image.to_dict()
        if self.settings.prompt is not None:
            card["prompt"] = Prompts(self.settings.prompt).writing()
        card["training"]["init"] = None if self.init is None else Path(self.init).name
        self._write_log()
        draw_losses(self.directory, at.history)
        save_projector(self.directory / RESULT, self.projector, card)
        (self.directory / "checkpoint.pt").unlink(missing_ok=True)
