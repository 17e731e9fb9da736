"""The layers' base classes: a map's parameters are named once and reach every layer, signature, plan and printed line."""

import inspect
from dataclasses import fields
from typing import get_type_hints

import pytest
import torch

from foveal.geometry import LogPolarMap, MapArguments, log_polar_bins
from foveal.layers import (
    LogPolarConv1d,
    LogPolarConv2d,
    LogPolarConv3d,
    LogPolarPool2d,
    PointLogPolarConv,
)
from foveal.layers.base import LogPolarLayer
from foveal.surgery import layer_arguments

NAMES = [field.name for field in fields(LogPolarMap)]
BUILT = {
    LogPolarConv1d: (1, 1, 9),
    LogPolarConv2d: (1, 1, 9),
    LogPolarConv3d: (1, 1, 9),
    LogPolarPool2d: (9,),
    PointLogPolarConv: (1, 1, 0.5),
}


def layers():
    found, todo = [], [LogPolarLayer]
    while todo:
        kind = todo.pop()
        todo += kind.__subclasses__()
        if kind.__module__.startswith("foveal") and kind.__name__ not in ("LogPolarLayer", "BinnedConv"):
            found.append(kind)
    return found


def test_the_map_is_typed_once_in_one_order():
    assert list(MapArguments.__annotations__) == NAMES
    assert get_type_hints(MapArguments) == get_type_hints(LogPolarMap)
    assert [name for name in inspect.signature(log_polar_bins).parameters if name != "kernel_size"] == NAMES


def test_every_log_polar_layer_is_here():
    assert set(layers()) == set(BUILT)


@pytest.mark.parametrize("kind", BUILT)
def test_layers_take_the_maps_parameters_by_name(kind):
    taken = inspect.signature(kind).parameters
    assert "map" not in taken
    assert "self" not in taken
    layer = kind(*BUILT[kind])
    for field in fields(LogPolarMap):
        assert (field.name in taken) == (field.name not in kind.map_without)
        if field.name in taken:
            assert taken[field.name].kind is inspect.Parameter.KEYWORD_ONLY
            assert taken[field.name].default == getattr(layer.map, field.name)
            shown = f"{field.name}={getattr(layer.map, field.name)!r}"
            assert (shown in repr(layer)) == (getattr(layer.map, field.name) is not None)
    with pytest.raises(
        TypeError, match=rf"{kind.__name__}.__init__\(\) got an unexpected keyword argument 'radius_bins'"
    ):
        kind(*BUILT[kind], radius_bins=2)


@pytest.mark.parametrize("layer", ["log_polar", "cross"])
def test_plans_take_the_maps_parameters(layer):
    assert set(layer_arguments(layer)) >= set(NAMES)


def test_other_shapes_take_none_of_them():
    assert not set(layer_arguments("rings")) & set(NAMES)


def test_a_users_subclass_tells_its_own_signature():
    class Mine(LogPolarConv2d):
        def __init__(self, channels, side=9, **map):
            super().__init__(channels, channels, side, **map)

    class Fixed(LogPolarConv2d):
        def __init__(self, channels):
            super().__init__(channels, channels, 9)

    assert list(inspect.signature(Mine).parameters) == ["channels", "side", *NAMES]
    assert list(inspect.signature(Fixed).parameters) == ["channels"]
    assert Mine(2, growth_rate=3.0)(torch.zeros(1, 2, 9, 9)).shape == (1, 2, 9, 9)
    assert list(inspect.signature(Fixed(2)).parameters) == ["args", "kwargs"]  # an instance is called
