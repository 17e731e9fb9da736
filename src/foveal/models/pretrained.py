"""Pretrained weights: of a whole network, which may get a new head, and of a backbone."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from foveal.extras import extra


class About(NamedTuple):
    """What pretrained weights were trained for; what is not known is None."""

    num_classes: int
    classes: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: int | None = None
    size: int | None = None
    """Side of the square that is cut out of the middle, in pixels."""


_FETCHING: dict[str, Any] = {"weights": None, "weights_backbone": None, "pretrained": False}
_TRANSFORMING = (
    "googlenet",
    "inception_v3",
)  # change their images themselves where weights of torchvision's are asked for


def asks_for_weights(arguments: Mapping[str, Any]) -> bool:
    """Whether `create_model` with these arguments starts from what somebody trained."""
    return any(arguments.get(key) for key in _FETCHING)


def without_weights(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the same network as it is before pretrained weights are put into it, to be filled with others.

    Example:
        >>> without_weights("resnet18", {"weights": "DEFAULT", "num_classes": 4})
        {'weights': None, 'num_classes': 4}
    """
    weights = arguments.get("weights")
    transforming = (
        {"transform_input": True} if name in _TRANSFORMING and weights and not Path(weights).is_file() else {}
    )
    return {**transforming, **arguments, **{key: _FETCHING[key] for key in _FETCHING if key in arguments}}


def fill(network: nn.Module, trained: nn.Module) -> None:
    """Put the weights of a trained network into one of the same kind that may have another head: all of the same shape."""
    mine = network.state_dict()
    state = trained.state_dict().items()
    network.load_state_dict({k: v for k, v in state if k in mine and mine[k].shape == v.shape}, strict=False)
    if hasattr(
        trained, "transform_input"
    ):  # how torchvision's Inception networks expect their images with these weights
        network.transform_input = trained.transform_input


def head_of(network: nn.Module, with_one_more: nn.Module) -> set[str]:
    """The names of the tensors whose shape depends on the number of classes."""
    mine, other = network.state_dict(), with_one_more.state_dict()
    return {name for name, value in mine.items() if other[name].shape != value.shape}


def classes_of(path: Path, head: set[str]) -> int:
    """How many classes the weights of a file tell apart.

    Raises:
        ValueError: it is no file of weights, or it has no head.
    """
    found = {value.shape[0] for name, value in _read(path).items() if name in head and value.ndim}
    if not found:
        raise ValueError(f"{path} must hold the network with its last layer, {' or '.join(sorted(head))}")
    return min(found)


def load_file(network: nn.Module, path: Path, head: set[str]) -> None:
    """Put the weights of a file into a network; of its head only what fits.

    Args:
        network: changed in place.
        path: a state dict as torch.save or safetensors wrote it, alone or as ``state_dict`` or ``model`` of a checkpoint;
            names may begin with ``module.``.
        head: names of the tensors that may be absent or of other shapes.

    Raises:
        ValueError: it is no such file, or the weights are those of another network.
    """
    state = _read(path)
    mine = network.state_dict()
    counted = {name for name in mine if name.endswith("num_batches_tracked")}  # which old files do not have
    absent = [name for name in mine if name not in state and name not in head | counted]
    foreign = [name for name in state if name not in mine]
    other = [
        f"{name} {list(state[name].shape)} for {list(value.shape)}"
        for name, value in mine.items()
        if name in state and name not in head and state[name].shape != value.shape
    ]
    for what, names in (("has no", absent), ("also has", foreign), ("has", other)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(f"{path} holds the weights of another network: it {what} {', '.join(names[:3])}{more}")
    fitting = {name: value for name, value in state.items() if value.shape == mine[name].shape}
    network.load_state_dict(fitting, strict=False)


def _read(path: Path) -> dict[str, Tensor]:
    """The state dict of a file."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file as read

            return read(path)
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what these files can be is anybody's guess
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} must hold a state dict that torch.load or safetensors can read ({reason})") from error
    for key in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{path} must hold a state dict, names and tensors; got {type(found).__name__}")
    return {name.removeprefix("module."): value for name, value in found.items()}


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
    torchvision = extra("torchvision")

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
