"""Tuned lens: LogitLens after an affine map for each layer, which was trained to give the LLM's own answer."""

from __future__ import annotations

from dataclasses import dataclass

from latentbank.query.lenses.translated import TranslatedLens


@dataclass(frozen=True)
class TunedLens(TranslatedLens):
    """The LLM's next-token prediction from a hidden state x, read from x + W x + b (Belrose et al. 2023).

    `train_tuned` trains W and b of each layer on text (arXiv 2303.08112). With zero weights it is LogitLens.
    Its neighbors carry the token's `probability`; they have no cosine.

    Examples:
        >>> import latentbank as lb
        >>> from latentbank.query.lenses.tuned import TunedLens
        >>> vlm = lb.load_visual_model("Qwen/Qwen2.5-VL-7B-Instruct")
        >>> lens = TunedLens.make(lb.LensOptions(vlm))
        >>> (reading,) = lb.read_images(vlm, ["cat.jpg"], [lens], layers=[8])
    """

    name = "tuned"
    title = "Tuned lens"
    kind = "tuned"
    trained_by = "train_tuned"
    rank = 3
