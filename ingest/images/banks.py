"""Banks of images made for a loaded VLM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latentbank.bank.images import opening
from latentbank.files import existing
from latentbank.models.vision.tokens import visual_fingerprint
from latentbank.text import is_path

if TYPE_CHECKING:
    from latentbank.bank.images.bank import ImageBank
    from latentbank.bank.settings import Settings
    from latentbank.models.vision.tokens import VisualModel
    from latentbank.values import Layers


def create_images(name: str, vlm: VisualModel, layers: Layers, settings: Settings) -> ImageBank:
    """Create the collections of a VLM's visual tokens beside a bank's contexts, or open them if they are there.

    Args:
        name: the bank's name, which must exist.
        vlm: the VLM.
        layers: the visual layers, each from 0 to `vlm.num_layers`.
        settings: where the bank is.

    Raises:
        BankNotFound: there is no such bank.
        BankMismatch: hidden states of the bank have another width, or the images are stored at other visual layers.
        LayerNotFound: the LLM does not have a layer.
    """
    return opening.create_images(
        name,
        settings,
        model=vlm.name,
        fingerprint=visual_fingerprint(vlm),
        layers=layers,
        num_layers=vlm.num_layers,
        hidden_size=vlm.hidden_size,
        revision=vlm.revision,
        local=is_path(vlm.name) and existing(vlm.name) is not None,
    )
