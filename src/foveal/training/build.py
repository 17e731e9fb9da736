"""Networks as recipes state them: by name, with their first weights, and converted by the plan."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from foveal.models import create_model
from foveal.models.pretrained import without_weights
from foveal.recipes.schema import Model
from foveal.surgery import convert


def build_network(
    model: Model,
    plan: Mapping[str, Mapping[str, Any] | None],
    *,
    num_classes: int,
    in_channels: int,
    seed: int = 0,
    fetch: bool = True,
) -> nn.Module:
    """A network with its first weights; the global random state is left as it was.

    Args:
        model: its name and what `create_model` takes.
        plan: what `convert` does to it.
        num_classes: outputs.
        in_channels: channels of its images.
        seed: of the weights.
        fetch: whether pretrained weights are put in where the model asks for them; without, others will be.

    Raises:
        ValueError: the network or the plan is not possible, or the model has other classes or channels than the data.
        TypeError: it takes no such argument.

    Example:
        >>> network = build_network(Model(name="small_cnn"), {}, num_classes=10, in_channels=3)
        >>> network(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """
    said = model.model_dump(exclude={"name"})
    for key, value, what in (("num_classes", num_classes, "classes"), ("in_channels", in_channels, "channels")):
        if said.get(key, value) != value:
            raise ValueError(f"model.{key} is {said[key]!r}, and the data has {value} {what}: leave it out")
    arguments = {"num_classes": num_classes, "in_channels": in_channels, **said}
    if not fetch:
        arguments = without_weights(model.name, arguments)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(mix(seed, "model"))
        network = create_model(model.name, **arguments)
        torch.default_generator.manual_seed(mix(seed, "convert"))
        return convert(network, dict(plan))


def learned_scales(model: nn.Module) -> list[Any]:
    """The layers whose scale is learned, Eq. (2) of Anisotropic Convolution."""
    return [module for module in model.modules() if getattr(module, "scale_conv", None) is not None]


def mix(seed: int, purpose: str) -> int:
    """A generator's seed for each purpose: near seeds and steps get unrelated numbers."""
    return int.from_bytes(hashlib.sha256(f"{seed} {purpose}".encode()).digest()[:4])
