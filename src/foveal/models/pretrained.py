"""Pretrained backbones: weights from a file, or by torchvision's name where its file is there already."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import nn


def load_backbone(network: nn.Module, names: str, weights: str | None) -> None:
    """Put pretrained weights into one of torchvision's networks. Nothing is downloaded.

    Args:
        network: as torchvision's builder gave it.
        names: of torchvision's enumeration of its weights, ``"ResNet34_Weights"``.
        weights: a file with a state dict, one of the enumeration's names (``"DEFAULT"``), or None for fresh weights.

    Raises:
        FileNotFoundError: they are not there; the message has the command that fetches them.
        ValueError: the file is not that of this network.
    """
    if weights is None:
        return
    import torchvision

    known = getattr(torchvision.models, names)
    path = Path(weights)
    if weights in known.__members__:
        url = known[weights].url
        path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
        cure = f"fetch it: curl --create-dirs -o {path} {url}"
    else:
        cure = f"give a file, or a name of torchvision's: {', '.join(known.__members__)}"
    if not path.is_file():
        raise FileNotFoundError(f"backbone_weights {weights!r}: {path} is not there; {cure}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state)
    except (OSError, RuntimeError, TypeError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"backbone_weights {weights!r}: {path} must hold the state dict of torchvision's network ({reason})"
        ) from error
