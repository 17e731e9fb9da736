"""Weights that a backbone starts from: a file, or a name of torchvision's weights; without a network it says what to do."""

import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

_PATIENCE = 5.0  # seconds that a host may take to answer


def load_backbone(network: nn.Module, architecture: str, weights: str | Path) -> None:
    """Load weights into a classification network of torchvision's, but those of its classifier.

    Args:
        network: torchvision's network, changed in place.
        architecture: its name in torchvision (``"resnet101"``).
        weights: a file (``.pth`` with a plain dict of tensors, or ``.safetensors``), or a name of torchvision's weights
            (``"IMAGENET1K_V1"``), which are downloaded once.

    Raises:
        ValueError: no such file or name; the host cannot be reached; the file holds other tensors.
    """
    path = Path(weights)
    names = _published(architecture)
    if str(weights) in names:
        state = _downloaded(names[str(weights)])
    elif path.is_file():
        state = _read(path)
    else:
        raise ValueError(
            f"weights must be a file, or one of {', '.join(names)} for {architecture}; got {str(weights)!r}, which is neither"
        )
    classifier = ("fc.", "classifier.")
    given = {name: tensor for name, tensor in state.items() if not name.startswith(classifier)}
    wanted = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(classifier)}
    optional = {name for name in wanted if name.endswith("num_batches_tracked")}
    wrong = [
        *(f"{name} is missing" for name in wanted.keys() - given.keys() - optional),
        *(f"{name} is unknown" for name in given.keys() - wanted.keys() if not name.endswith("num_batches_tracked")),
        *(
            f"{name} is {list(given[name].shape)}, not {list(wanted[name].shape)}"
            for name in given.keys() & wanted.keys()
            if given[name].shape != wanted[name].shape
        ),
    ]
    if wrong:
        some = "; ".join(sorted(wrong)[:3]) + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        raise ValueError(f"{weights} does not hold the weights of {architecture}: {some}")
    network.load_state_dict({name: given[name] for name in wanted if name in given}, strict=False)


def _published(architecture: str) -> dict[str, Any]:
    from torchvision.models import get_model_weights

    return {entry.name: entry for entry in get_model_weights(architecture)}


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load and safetensors raise seven kinds between them
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} cannot be read as weights ({reason}); it must be a dict of tensors") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} must hold a dict of tensors, such as a network's state_dict(); got {type(state)}")
    return state


def _downloaded(entry: Any) -> dict[str, Tensor]:
    kept = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(entry.url).path).name
    if kept.is_file():
        return _read(kept)
    try:
        # a host that cannot be reached is told in seconds, not after the many tries of a download
        socket.create_connection((urlsplit(entry.url).hostname or "", 443), timeout=_PATIENCE).close()
        return entry.get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        raise ValueError(
            f"the weights {entry.name} cannot be downloaded here ({error}); on a machine with a network get "
            f"{entry.url} and give its path as weights, or put it at {kept}"
        ) from error
