"""Jacobian lens: LogitLens after the average Jacobian from a layer to the last one."""

from __future__ import annotations

from dataclasses import dataclass

from latentbank.query.lenses.translated import TranslatedLens


@dataclass(frozen=True)
class JacobianLens(TranslatedLens):
    """What a hidden state x makes the LLM say here or later, to first order: read from J x.

    J is the average over text of how the last block's output changes with the layer's hidden state, at the same
    position and at later ones (Gurnee et al. 2026, "Verbalizable Representations Form a Global Workspace in Language
    Models"). `compute_jacobian` computes it. Its neighbors carry the token's `probability`; they
    have no cosine.

    Examples:
        >>> import latentbank as lb
        >>> from latentbank.query.lenses.jacobian import JacobianLens
        >>> vlm = lb.load_visual_model("Qwen/Qwen2.5-VL-7B-Instruct")
        >>> lens = JacobianLens.make(lb.LensOptions(vlm))
        >>> (reading,) = lb.read_images(vlm, ["cat.jpg"], [lens], layers=[8])
    """

    name = "jacobian"
    title = "Jacobian lens"
    kind = "jacobian"
    trained_by = "compute_jacobian"
    rank = 4
