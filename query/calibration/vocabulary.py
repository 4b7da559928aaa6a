"""The vocabulary's numbers: what corrects the lenses that read an LLM's vocabulary instead of a bank.

EmbeddingLens is corrected as LatentLens is: the tokens' input embeddings stand in the contexts' place, and all of them
are scored, not the nearest alone. LogitLens has no vectors to centre. Its score is log p(token | q) − h(token), where h
is the mean of the k largest log-probabilities that the reference tokens give the token: what is said of this visual
token, less what is said of many. (With the weights of CSLS, 2 log p − h, the most probable tokens stay what they are.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from latentbank.bank.rotation import unit
from latentbank.errors import LatentBankError, QueryError
from latentbank.files import write_whole
from latentbank.progress import Progress, Silent
from latentbank.query.lenses.vocabulary import BLOCK

if TYPE_CHECKING:
    from torch import Tensor, device

    from latentbank.models.language.unembedding import Unembedding
    from latentbank.models.vision.tokens import VisualModel
    from latentbank.query.calibration.calibration import Calibration
    from latentbank.query.calibration.correction import Correction, Mode
    from latentbank.query.calibration.references import ReferenceTokens

Floats = npt.NDArray[np.float32]

LENSES = ("logit", "embedding")
"""The lenses that the vocabulary's numbers correct."""
_NEAREST = 10  # tokens whose mean cosine says how near a query is to all of them
_REFERENCES = 256  # reference tokens whose logits are held at once


@dataclass(frozen=True)
class EmbeddingNumbers:
    """What corrects EmbeddingLens at one visual layer.

    Attributes:
        text_mean: μ, the mean of the input embeddings made unit, float32 `[hidden]`.
        hubs: h of each token by centred cosines, float32 `[vocab]`.
        plain_hubs: h by plain cosines, float32 `[vocab]`.
    """

    text_mean: Floats
    hubs: Floats
    plain_hubs: Floats


def embedding_numbers(embedding: Tensor, tokens: ReferenceTokens) -> EmbeddingNumbers:
    """Compute what corrects EmbeddingLens from the reference tokens of a visual layer.

    Args:
        embedding: `[vocab, hidden]` in any float dtype, on any device.
        tokens: the reference tokens.
    """
    import torch

    with torch.inference_mode():
        mean = _mean_of_units(embedding)
        plain = torch.from_numpy(unit(tokens.states)).to(embedding.device)
        shifted = _unit(plain - torch.from_numpy(tokens.mean).to(plain))
        hubs, plain_hubs = [], []
        step = max(1, BLOCK // max(embedding.shape[1], len(plain)))
        for start in range(0, len(embedding), step):
            block = _unit(embedding[start : start + step].float())
            plain_hubs.append(_mean_of_largest(block @ plain.T, tokens.nearest))
            block = _unit(block - mean)
            hubs.append(_mean_of_largest(block @ shifted.T, tokens.nearest))
    return EmbeddingNumbers(
        mean.cpu().numpy(), torch.cat(hubs).cpu().numpy(), torch.cat(plain_hubs).cpu().numpy()
    )


def _mean_of_units(embedding: Tensor) -> Tensor:
    """Return the mean of the rows of `[vocab, hidden]`, each made unit: float32 `[hidden]`, on the same device."""
    import torch

    total = torch.zeros(embedding.shape[1], dtype=torch.float64)  # on the CPU: Apple's GPU has no float64
    step = max(1, BLOCK // embedding.shape[1])
    for start in range(0, len(embedding), step):
        block = _unit(embedding[start : start + step].float())
        total += block.sum(0).cpu()
    return (total / len(embedding)).float().to(embedding.device)


def _mean_of_largest(numbers: Tensor, count: int) -> Tensor:
    """Return the mean of the `count` largest numbers of each row, of all if there are fewer."""
    return numbers.topk(min(count, numbers.shape[1]), dim=1, sorted=False).values.mean(1)


def logit_hubs(unembedding: Unembedding, tokens: ReferenceTokens) -> Floats:
    """Return h of each row of an unembedding: the mean of its largest log-probabilities, float32 `[rows]`.

    Raises:
        ModelError: the hidden states are of another width.
    """
    import torch

    states = torch.from_numpy(tokens.states)
    count = min(tokens.nearest, len(states))
    best: Tensor | None = None
    with torch.inference_mode():
        for start in range(0, len(states), _REFERENCES):
            found = unembedding.logits(states[start : start + _REFERENCES]).float().log_softmax(-1)
            best = found if best is None else torch.cat([best, found])
            # Rows of tokens side by side: the largest of a column are found faster along the memory.
            best = best.T.contiguous().topk(min(count, len(best)), dim=1, sorted=False).values.T
    if best is None:
        raise QueryError("There are no reference tokens; calibrate on some pictures.")
    hubs: Floats = best.mean(0).cpu().numpy()
    return hubs


def vocabulary_file(folder: Path, lens: str, layer: int) -> Path:
    """Return the file of a lens's numbers for a visual layer."""
    return folder / f"{lens}-V{layer:02d}.safetensors"


def calibrate_vocabulary(
    calibration: Calibration,
    model: VisualModel,
    layers: Sequence[int],
    lenses: Sequence[str] = LENSES,
    progress: Progress | None = None,
) -> list[str]:
    """Compute the vocabulary's numbers that are missing, and keep them with a calibration.

    Args:
        calibration: its reference tokens are used.
        model: the VLM that they are of.
        layers: calibrated visual layers.
        lenses: which of `LENSES` are calibrated.
        progress: receives the files that are done.

    Returns:
        The lenses for which numbers were computed now.

    Raises:
        BankMismatch: the calibration is of another VLM.
        QueryError: a layer is not calibrated.
        ModelError: the LLM has no unembedding, or it cannot be loaded.
        LatentBankError: a file cannot be written.
    """
    from safetensors.numpy import save

    from latentbank.models.visual import unembedding_of

    calibration.require(model)
    progress = progress or Silent()
    progress.stage("comparing", "vocabularies")
    missing = [
        (lens, layer)
        for lens in lenses
        for layer in layers
        if not vocabulary_file(calibration.pictures_folder, lens, layer).is_file()
    ]
    unembedding = unembedding_of(model) if any(lens == "logit" for lens, _ in missing) else None
    for done, (lens, layer) in enumerate(missing):
        progress.update(done, len(missing))
        tokens = calibration.references(layer)
        if lens == "logit":
            assert unembedding is not None
            tensors = {"hubs": logit_hubs(unembedding, tokens)}
        else:
            tensors = vars(embedding_numbers(model.language.embedding, tokens))
        write_whole(vocabulary_file(calibration.pictures_folder, lens, layer), save(dict(tensors)))
    return [lens for lens in lenses if any(lens == computed for computed, _ in missing)]


def read_embedding_numbers(calibration: Calibration, layer: int | None) -> EmbeddingNumbers:
    """Return what corrects EmbeddingLens at a visual layer.

    Raises:
        QueryError: the layer, or this lens, is not calibrated.
        LatentBankError: the file cannot be read.
    """
    return EmbeddingNumbers(**_read(calibration, "embedding", layer, ("text_mean", "hubs", "plain_hubs")))


def read_logit_hubs(calibration: Calibration, layer: int | None) -> Floats:
    """Return what corrects LogitLens at a visual layer; the errors are those of `read_embedding_numbers`."""
    return _read(calibration, "logit", layer, ("hubs",))["hubs"]


@dataclass(frozen=True, eq=False)
class EmbeddingLook:
    """How a corrected EmbeddingLens scores tokens.

    Attributes:
        mode: which corrections are made.
        mean: m, the mean of visual tokens, float32 `[hidden]`.
        text_mean: μ, the mean of the input embeddings made unit, float32 `[hidden]`.
        hubs: h of each token, float32 `[vocab]`.
    """

    mode: Mode
    mean: Tensor
    text_mean: Tensor
    hubs: Tensor

    def queries(self, rows: Tensor) -> Tensor:
        """Return unit hidden states as they are compared: less their mean, and made unit again."""
        return rows if self.mode == "hubs" else _unit(rows - self.mean)

    def tokens(self, block: Tensor) -> Tensor:
        """Return input embeddings as they are compared."""
        return _unit(block) if self.mode == "hubs" else _unit(_unit(block) - self.text_mean)

    def scores(self, cosines: Tensor, start: int) -> Tensor:
        """Return what tokens are ranked by; `cosines` `[rows, tokens]` are those of the tokens from `start` on."""
        if self.mode == "mean":
            return cosines
        return 2 * cosines - self.hubs[start : start + cosines.shape[1]]

    def nearest(self, cosines: Tensor) -> Tensor:
        """Return the largest cosines of each row, which `less_near` needs."""
        return cosines.topk(min(_NEAREST, cosines.shape[1])).values

    def less_near(self, scores: Tensor, near: Tensor) -> Tensor:
        """Return scores less g of their row: the ranking stays, and scores of different rows can be compared."""
        return scores if self.mode == "mean" else scores - near.mean(1, keepdim=True)


def embedding_look(correction: Correction, layer: int | None, where: device) -> EmbeddingLook:
    """Return how a corrected EmbeddingLens scores tokens for hidden states of a visual layer.

    Raises:
        QueryError: the layer, or this lens, is not calibrated.
        LatentBankError: a file cannot be read.
    """
    import torch

    calibration = correction.calibration
    numbers = read_embedding_numbers(calibration, layer)
    mean = calibration.references(calibration.require_layer(layer)).mean
    hubs = numbers.plain_hubs if correction.mode == "hubs" else numbers.hubs
    given = [torch.from_numpy(array).to(where) for array in (mean, numbers.text_mean, hubs)]
    return EmbeddingLook(correction.mode, *given)


def _unit(rows: Tensor) -> Tensor:
    import torch

    return torch.nn.functional.normalize(rows, dim=-1)


def _read(calibration: Calibration, lens: str, layer: int | None, names: Sequence[str]) -> dict[str, Floats]:
    from safetensors import SafetensorError, safe_open

    path = vocabulary_file(calibration.pictures_folder, lens, calibration.require_layer(layer))
    if not path.is_file():
        raise QueryError(
            f"The {lens} lens is not calibrated for visual layer {layer} of {calibration.model}; calibrate again, "
            "which computes what is missing, or read without correction.",
            argument="correct",
        )
    try:
        with safe_open(str(path), framework="np") as file:
            return {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise LatentBankError(
            f"{path} cannot be read as a part of a calibration ({type(error).__name__}); calibrate again."
        ) from None
