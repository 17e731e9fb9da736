"""Deformable RoI pooling: each part of a box is averaged where a learned offset moves it."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from foveal.layers import base, shaped
from foveal.ops import arguments
from foveal.ops.sampled import reference

_POOLS = ("RoIAlign", "RoIPool")  # torchvision's modules, known by name: it is not imported here


def deform_roi_pool(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    offset: Tensor | None = None,
    *,
    spatial_scale: float = 1.0,
    sampling_ratio: int = 4,
) -> Tensor:
    """Average each part of a box, moved by its offset, over a grid of points read by bilinear interpolation.

    Source: Eq. (5) and (6) of Deformable Convolutional Networks (ICCV 2017), with the points of RoIAlign (ICCV 2017): without
    offset it is ``torchvision.ops.roi_align`` with ``aligned=True``. A point beyond the map by more than a pixel reads zero, one
    within that pixel the border. Coordinates are float32 or better whatever the dtype; an infinite offset reads zero,
    a NaN comes out as NaN in the part that it moves.

    Args:
        input: Tensor[N, C, H, W], float64, float32, float16 or bfloat16.
        boxes: Tensor[K, 5] with the image's index, left, top, right and bottom in pixels of the image, or a list with
            one Tensor[k, 4] for each image.
        output_size: parts down and right, kh and kw.
        offset: Tensor[K, 2, kh, kw], how far each part moves down and right, in heights and widths of its box.
        spatial_scale: size of the map as a share of the image's.
        sampling_ratio: points of a part in each direction.

    Returns:
        Tensor[K, C, kh, kw] in the input's dtype.

    Raises:
        ValueError: an argument breaks its rule; the message names argument, rule and value.

    Example:
        >>> input = torch.arange(16.0).reshape(1, 1, 4, 4)
        >>> box = torch.tensor([[0, 0.0, 0.0, 2.0, 2.0]])
        >>> right = torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1)
        >>> deform_roi_pool(input, box, 1).item(), deform_roi_pool(input, box, 1, right).item()
        (2.8125, 4.6875)
    """
    rows, columns = arguments.numbers("output_size", output_size, 2, at_least=1)
    sampling_ratio = shaped.check_count("sampling_ratio", sampling_ratio)
    if input.ndim != 4 or 0 in input.shape[1:] or input.dtype not in arguments.FLOATING:
        raise ValueError(f"input must be floating [N, C, H, W]; got {input.dtype} of shape {tuple(input.shape)}")
    boxes = _with_index(boxes, len(input))
    if offset is not None and offset.shape != (len(boxes), 2, rows, columns):
        raise ValueError(f"offset must be [{len(boxes)}, 2, {rows}, {columns}]; got shape {tuple(offset.shape)}")

    batch, channels, height, width = input.shape
    wide = torch.float64 if input.dtype == torch.float64 else torch.float32
    left, top, right, bottom = (boxes[:, 1:].to(wide) * spatial_scale - 0.5).unbind(1)
    down = _points(top, bottom, rows, sampling_ratio)[:, :, None, :].expand(-1, -1, columns, -1)
    across = _points(left, right, columns, sampling_ratio)[:, None].expand(-1, rows, -1, -1)
    if offset is not None:
        move = offset.to(wide)
        down = down + (move[:, 0] * (bottom - top)[:, None, None])[..., None]
        across = across + (move[:, 1] * (right - left)[:, None, None])[..., None]
    above, below, share_y, inside_y = _neighbours(down, height)
    before, after, share_x, inside_x = _neighbours(across, width)

    image = boxes[:, 0].long()[:, None, None, None, None] * height
    index, share = [], []
    inside = inside_y[..., :, None] & inside_x[..., None, :]
    for y, part_y in ((above, 1 - share_y), (below, share_y)):
        for x, part_x in ((before, 1 - share_x), (after, share_x)):
            index.append((image + y[..., :, None]) * width + x[..., None, :])
            share.append((part_y[..., :, None] * part_x[..., None, :]).masked_fill(~inside, 0))
    points = 4 * sampling_ratio**2
    pixels = input.permute(0, 2, 3, 1).reshape(batch * height * width, channels).to(wide)
    blend: Any = reference.definition_of_blend if arguments.transforming() else _Blend.apply
    if torch.compiler.is_compiling():  # which knows no second derivative of anything
        blend = reference.gather
    shares = torch.stack(share, -1).reshape(-1, points) / sampling_ratio**2
    pooled = blend(pixels, torch.stack(index, -1).reshape(-1, points), shares)
    return pooled.reshape(len(boxes), rows, columns, channels).permute(0, 3, 1, 2).to(input.dtype)


class DeformableRoIPool(base.Mapped):
    """RoI pooling whose parts move by offsets that a fully connected layer predicts from what they hold at rest.

    Source: Deformable Convolutional Networks (ICCV 2017), section 2.2. ``offset_fc`` starts at zero.

    Args:
        channels: of the map.
        output_size: parts down and right.
        spatial_scale: size of the map as a share of the image's.
        sampling_ratio: points of a part in each direction (4 in the authors' networks).
        offset_scale: what the predicted offset is multiplied with, the paper's gamma; the product is in heights and
            widths of the box.

    Shape:
        map [N, C, H, W] and boxes as in ``deform_roi_pool`` -> [K, C, kh, kw].

    Raises:
        ValueError: an argument breaks its rule.

    Example:
        >>> pool = DeformableRoIPool(8, 7, spatial_scale=1 / 16)
        >>> pool(torch.zeros(1, 8, 10, 10), [torch.tensor([[0.0, 0.0, 64.0, 96.0]])]).shape
        torch.Size([1, 8, 7, 7])
    """

    def __init__(
        self,
        channels: int,
        output_size: int | Sequence[int] = 7,
        spatial_scale: float = 1.0,
        *,
        sampling_ratio: int = 4,
        offset_scale: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = channels = shaped.check_count("channels", channels)
        self.output_size = arguments.numbers("output_size", output_size, 2, at_least=1)
        self.spatial_scale, self.offset_scale = (
            shaped.check_number(name, value, "a number above 0", lambda v: v > 0)
            for name, value in (("spatial_scale", spatial_scale), ("offset_scale", offset_scale))
        )
        self.sampling_ratio = shaped.check_count("sampling_ratio", sampling_ratio)
        parts = self.output_size[0] * self.output_size[1]
        self.offset_fc = nn.Linear(channels * parts, 2 * parts, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start anew: parts at rest."""
        nn.init.zeros_(self.offset_fc.weight)
        nn.init.zeros_(self.offset_fc.bias)

    def forward(self, input: Tensor, boxes: Tensor | Sequence[Tensor]) -> Tensor:
        """Pool the boxes."""
        boxes = _with_index(boxes, len(input))
        return self._pool(input, boxes, self.offsets(input, boxes))

    def offsets(self, input: Tensor, boxes: Tensor | Sequence[Tensor]) -> Tensor:
        """How far each part moves down and right, Tensor[K, 2, kh, kw] in heights and widths of its box."""
        rest = self._pool(input, boxes, None).to(self.offset_fc.weight.dtype)
        moved = self.offset_fc(rest.flatten(1)) * self.offset_scale
        return moved.reshape(len(rest), 2, *self.output_size)

    def _pool(self, input: Tensor, boxes: Tensor | Sequence[Tensor], offset: Tensor | None) -> Tensor:
        at = {"spatial_scale": self.spatial_scale, "sampling_ratio": self.sampling_ratio}
        return deform_roi_pool(input, boxes, self.output_size, offset, **at)  # type: ignore[arg-type]

    @classmethod
    def from_pool(cls, pool: nn.Module, *, channels: int | None = None, **spec: Any) -> Self:
        """Stand in for RoI pooling that averages or takes the maximum: its output size and scale.

        Args:
            pool: a module of torchvision's, RoIAlign or RoIPool.
            channels: of the map that it pools from, which it does not know.
            spec: arguments of the constructor, in front of those taken.

        Raises:
            ValueError: not such a module, or no channels.
        """
        if not is_pool(pool):
            raise ValueError(f"only torchvision's {' and '.join(_POOLS)} can be replaced; got {type(pool).__name__}")
        if channels is None:
            raise ValueError("a RoI pooling does not know its channels: give channels in the plan")
        taken = {"output_size": pool.output_size, "spatial_scale": pool.spatial_scale, **spec}
        new = cls(channels, **taken)
        new.train(pool.training)
        return new

    def extra_repr(self) -> str:
        """The arguments."""
        return (
            f"{self.channels}, output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, offset_scale={self.offset_scale}"
        )


def is_pool(module: nn.Module) -> bool:
    """Whether a module is RoI pooling that DeformableRoIPool can stand for."""
    return any(kind.__name__ in _POOLS for kind in type(module).__mro__)


def _with_index(boxes: Tensor | Sequence[Tensor], images: int) -> Tensor:
    """Boxes with the index of their image in front, [K, 5]."""
    if isinstance(boxes, Tensor):
        if boxes.ndim != 2 or boxes.shape[1] != 5:
            raise ValueError(f"boxes must be [K, 5], or a list with [k, 4] for each image; got {tuple(boxes.shape)}")
        return boxes
    if len(boxes) != images or any(each.ndim != 2 or each.shape[1] != 4 for each in boxes):
        shapes = [tuple(each.shape) for each in boxes]
        raise ValueError(f"boxes must hold one tensor [k, 4] for each of the {images} images; got shapes {shapes}")
    return torch.cat([torch.cat([each.new_full((len(each), 1), k), each], 1) for k, each in enumerate(boxes)])


def _points(start: Tensor, end: Tensor, parts: int, each: int) -> Tensor:
    """Where the points of each part lie along one side, [K, parts, each]."""
    places = (torch.arange(parts * each, device=start.device, dtype=start.dtype) + 0.5) / (parts * each)
    return (start[:, None] + (end - start)[:, None] * places).unflatten(1, (parts, each))


class _Blend(torch.autograd.Function):
    """The definition's blend, fast, with the definition's second derivative: that of torch's fast one is not there."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, share: Tensor) -> Tensor:
        ctx.save_for_backward(rows, index, share)
        return reference.gather(rows, index, share)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        rows, index, share = ctx.saved_tensors
        twice = torch.is_grad_enabled() or arguments.transforming()
        with torch.enable_grad():
            given = [each if twice else each.detach().requires_grad_(each.requires_grad) for each in (rows, share)]
            blend = reference.definition_of_blend if twice else reference.gather
            out = blend(given[0], index, given[1])
        wanted = [each for each in given if each.requires_grad]
        found = iter(torch.autograd.grad(out, wanted, grad, create_graph=twice))
        grad_rows, grad_share = (next(found) if each.requires_grad else None for each in given)
        return grad_rows, None, grad_share


def _neighbours(place: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The pixels on both sides of each point, the share of the second, and whether the map reaches that far."""
    inside = ~((place < -1) | (place > size))  # a NaN stays and comes out
    held = place.clamp(0, size - 1)
    first = held.detach().floor().nan_to_num()
    low = first.long()
    return low, (low + 1).clamp(max=size - 1), held - first, inside
