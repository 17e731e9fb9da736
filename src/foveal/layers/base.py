"""The layers' base classes: maps that no cast can harm, a window with nn.Conv2d's arguments, a log-polar map's parameters by name."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, fx, nn

from foveal.geometry import LogPolarMap
from foveal.layers import shaped
from foveal.ops import arguments


class Mapped(nn.Module):
    """A layer with maps: derived from its arguments, beside its weights and on their device, never harmed by what happens
    to those."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "forward" in cls.__dict__:
            cls.forward = _one_node(cls.forward)

    def __init__(self) -> None:
        super().__init__()
        self._maps: dict[str, Tensor] = {}
        self.register_load_state_dict_post_hook(_follow)

    def add_map(self, name: str, value: Tensor) -> None:
        """Keep a map out of the state dict, untouched by casts and to_empty; to be made, as all that it takes, plainly."""
        self._maps[name] = value
        self.register_buffer(name, value, persistent=False)
        self._place_maps(value.device)

    def _place_maps(self, otherwise: torch.device | None) -> None:
        """Put the maps where the weights are; without weights on the other device, if there is one."""
        weight = next(self.parameters(), None)
        device = otherwise if weight is None else weight.device
        if device is None:
            return
        with shaped.plainly() as fake:
            for name, value in self._maps.items():
                self._buffers[name] = (value if fake is None else fake.from_tensor(value)).to(device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        placed = {name: self._buffers.pop(name) for name in self._maps}
        try:
            super()._apply(fn, recurse)
        finally:
            self._buffers.update(placed)
        device = next((map.device for map in placed.values() if map is not None), torch.device("cpu"))
        self._place_maps(fn(torch.empty(0, device="cpu" if device.type == "meta" else device)).device)
        return self

    def __prepare_scriptable__(self) -> nn.Module:
        """What torch.jit.script asks first; it knows too little Python for this layer, and says so in many words."""
        raise NotImplementedError(
            f"{type(self).__name__} cannot be scripted: trace the model (torch.jit.trace) or export it (torch.export.export), or "
            "let foveal.reparameterize(model) turn what is exactly a convolution into one before"
        )


def _one_node(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A forward that torch.fx takes as one node of its graph, as it takes those of torch.nn: inside, shapes decide."""

    @functools.wraps(forward)
    def traceable(self: nn.Module, *inputs: Any, **named: Any) -> Any:
        for given in inputs:
            if isinstance(given, fx.Proxy):
                tracer: Any = given.tracer
                if tracer.root is self:
                    raise TypeError(f"{type(self).__name__} is one node for torch.fx; trace a network that holds it")
                return tracer.create_proxy("call_module", tracer.path_of_module(self), inputs, named)
        return forward(self, *inputs, **named)

    return traceable


def _follow(layer: Mapped, _: Any) -> None:
    """Maps go where the weights are: assign=True brings weights that may lie elsewhere."""
    layer._place_maps(None)


class Windowed(Mapped):
    """A layer that looks through a window at each position; takes nn.Conv2d's arguments of it and checks them."""

    dims: ClassVar[int] = 2
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int],
        padding: int | str | Sequence[int] | None,
        dilation: int | Sequence[int],
        padding_mode: str,
    ) -> None:
        super().__init__()
        self.kernel_size = arguments.numbers("kernel_size", kernel_size, self.dims, at_least=1)
        self.stride = arguments.numbers("stride", stride, self.dims, at_least=1)
        self.dilation = arguments.numbers("dilation", dilation, self.dims, at_least=1)
        self.padding = arguments.same_size_padding(self.window) if padding is None else padding
        if not isinstance(self.padding, str):
            self.padding = arguments.numbers("padding", self.padding, self.dims, at_least=0)
        self.before, self.after = arguments.split_padding(self.padding, self.window, self.stride)
        self.padding_mode = shaped.check_choice("padding_mode", padding_mode, shaped.PADDING_MODES)

    @property
    def window(self) -> tuple[int, ...]:
        """Pixels between the first and the last tap, in each direction."""
        return tuple(d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True))

    def extra_repr(self) -> str:
        """nn.Conv2d's words for the window."""
        text = f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding!r}"
        if set(self.dilation) != {1}:
            text += f", dilation={self.dilation}"
        if self.padding_mode != "zeros":
            text += f", padding_mode={self.padding_mode!r}"
        return text


class ShapedConv(Windowed):
    """A convolution whose kernel is a weight and a fixed map; takes nn.Conv2d's arguments and checks them."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int],
        padding: int | str | Sequence[int] | None,
        dilation: int | Sequence[int],
        groups: int,
        padding_mode: str,
    ) -> None:
        in_channels = shaped.check_count("in_channels", in_channels)
        out_channels = shaped.check_count("out_channels", out_channels)
        groups = shaped.check_count("groups", groups)
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels)):
            if value % groups:
                raise ValueError(f"{name} must be a multiple of groups, {groups}; got {value}")
        super().__init__(kernel_size, stride, padding, dilation, padding_mode)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.groups = groups

    def extra_repr(self) -> str:
        """nn.Conv2d's line."""
        text = f"{self.in_channels}, {self.out_channels}, {super().extra_repr()}"
        return text if self.groups == 1 else f"{text}, groups={self.groups}"


class _Signature:
    """What inspect.signature tells of a layer that takes ``**map``: the parameters of the map, one by one."""

    def __get__(self, layer: Any, kind: "type[LogPolarLayer]") -> inspect.Signature:
        if layer is not None:
            raise AttributeError("__signature__")  # an instance is called, not constructed
        told = inspect.signature(kind.__init__)
        named = []
        for parameter in list(told.parameters.values())[1:]:
            many = parameter.kind is parameter.VAR_KEYWORD and parameter.name == "map"
            named += kind.map_parameters() if many else [parameter]
        return told.replace(parameters=named)


class LogPolarLayer:
    """A layer that takes the parameters of a :class:`LogPolarMap` by their names, as ``**map``, and keeps the value."""

    map: LogPolarMap | None
    map_defaults: ClassVar[Mapping[str, Any]] = {}
    """Where they are not the map's own."""
    map_without: ClassVar[Sequence[str]] = ()
    """Parameters that mean nothing here."""
    __signature__ = _Signature()

    @classmethod
    def map_parameters(cls) -> list[inspect.Parameter]:
        """The parameters of the map that this layer takes, by keyword alone."""
        return [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=cls.map_defaults.get(field.name, field.default),
                annotation=field.type,
            )
            for field in fields(LogPolarMap)
            if field.name not in cls.map_without
        ]

    @classmethod
    def map_of(cls, given: Mapping[str, Any]) -> LogPolarMap:
        """The map of these arguments; the others are their defaults."""
        cls.check_map_names(given)
        return LogPolarMap(**{**cls.map_defaults, **given})

    @classmethod
    def check_map_names(cls, given: Mapping[str, Any]) -> None:
        """Refuse what is no parameter of the map here, in Python's own words."""
        known = {parameter.name for parameter in cls.map_parameters()}
        for name in given:
            if name not in known:
                raise TypeError(f"{cls.__name__}.__init__() got an unexpected keyword argument {name!r}")

    def map_repr(self, **more: Any) -> str:
        """The parameters of the map for the layer's line, with others of the layer's in front of the centre."""
        if self.map is None:
            return ""
        said = self.map.said()
        center = said.pop("center")
        said |= {**more, "center": center}
        return "".join(f", {name}={value!r}" for name, value in said.items() if name not in self.map_without)
