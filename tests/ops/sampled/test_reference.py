"""The general form of sampled convolution (masks, offset groups, borders, no weight, points that learn) against float64 loops."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foveal.geometry import scaled_taps
from foveal.ops import sampled_conv2d


def read(image, y, x, border):
    """Every pixel q with weight max(0, 1 - |qy - y|) * max(0, 1 - |qx - x|); at a border the point is moved to the map first."""
    _, height, width = image.shape
    if border:
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    down = np.maximum(0, 1 - np.abs(np.arange(height) - y))
    right = np.maximum(0, 1 - np.abs(np.arange(width) - x))
    return np.einsum("chw,h,w->c", image, down, right)


def loops(input, weight, taps, offset, bias, mask, offset_groups, stride, groups, fuse, border, size):
    """Output by output, set by set, tap by tap, offset group by offset group; offset and mask by (set, group)."""
    sets, points = taps.shape[:2]
    channels, per = input.shape[1], input.shape[1] // offset_groups
    outs = channels if weight is None else weight.shape[-3]
    branches = np.zeros((sets, len(input), outs, *size))
    for s, n, i, j in np.ndindex(sets, len(input), *size):
        for t in range(points):
            value = np.zeros(channels)
            for g in range(offset_groups):
                y, x = i * stride[0] + taps[s, t, 0], j * stride[1] + taps[s, t, 1]
                moved, factor = offset[s][g], mask[s][g]
                if moved is not None:
                    moved = moved[n % len(moved)]
                    y, x = y + moved[2 * t, i, j], x + moved[2 * t + 1, i, j]
                mine = slice(g * per, (g + 1) * per)
                value[mine] = read(input[n, mine], y, x, border)
                if factor is not None:
                    value[mine] *= factor[n % len(factor)][t, i, j]
            if weight is None:
                branches[s, n, :, i, j] += value
                continue
            kernel = weight[s] if weight.ndim == 4 else weight
            inner = kernel.shape[1]
            for o in range(outs):
                first = o // (outs // groups) * inner
                branches[s, n, o, i, j] += kernel[o, :, t] @ value[first : first + inner]
    output = {"max": branches.max(0), "sum": branches.sum(0), "concat": np.concatenate(branches, 1)}[fuse]
    return output if bias is None else output + bias[:, None, None]


@st.composite
def cases(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    offset_groups, groups = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 2]))
    channels = offset_groups * groups * draw(st.integers(1, 2))
    sets, points = draw(st.sampled_from([1, 1, 2])), draw(st.integers(1, 3))
    batch, size = draw(st.integers(1, 2)), (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    fuse = draw(st.sampled_from(["max", "sum", "concat"]))
    weight, outs = None, channels
    if draw(st.integers(0, 2)):
        outs = groups * draw(st.integers(1, 2))
        shape = (outs, channels // groups, points)
        weight = random(*shape) if draw(st.booleans()) else random(sets, *shape)
    else:
        groups = 1
    spread = draw(st.sampled_from([0.3, 3.0]))

    def pairs(length, scale):
        """For each set and group a tensor, a tensor for all images, or None."""

        def one():
            kind = draw(st.sampled_from(["own", "own", "shared", "none"]))
            return None if kind == "none" else random(batch if kind == "own" else 1, length, *size) * scale

        return [[one() for _ in range(offset_groups)] for _ in range(sets)]

    offset, mask = pairs(2 * points, spread), pairs(points, 1.0)
    bias = random(outs * (sets if fuse == "concat" else 1)) if draw(st.booleans()) else None
    # taps on a grid of 1/8 are the same number in float32 and float64
    taps = torch.randint(-24, 25, (sets, points, 2), generator=generator) / 8
    input = random(batch, channels, draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    stride = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    return input, weight, taps, offset, bias, mask, offset_groups, stride, groups, fuse, draw(st.booleans()), size


def call(case, **changed):
    input, weight, taps, offset, bias, mask, offset_groups, stride, groups, fuse, border, size = case
    flat = {name: [t for each in pairs for t in each] for name, pairs in (("offset", offset), ("mask", mask))}
    more = {"offset_groups": offset_groups, "stride": stride, "groups": groups, "fuse": fuse, "output_size": size}
    more["padding_mode"] = "border" if border else "zeros"
    return sampled_conv2d(**{"input": input, "weight": weight, "taps": taps, "bias": bias, **flat, **more, **changed})


def numbers(value):
    if isinstance(value, list):
        return [numbers(v) for v in value]
    return value.numpy() if isinstance(value, torch.Tensor) else value


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_equals_loops(case):
    expected = torch.from_numpy(loops(*map(numbers, case)))
    scale = float(expected.abs().max().clamp(min=1))
    torch.testing.assert_close(call(case), expected, rtol=0, atol=1e-12 * scale)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_points_that_learn_are_the_same_points(case):
    torch.testing.assert_close(call(case, taps=case[2].double().requires_grad_()).detach(), call(case))


@pytest.mark.parametrize("fuse", ["max", "sum", "concat"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
def test_gradcheck_and_gradgradcheck(fuse, weighted, padding_mode):
    outs = 8 if fuse == "concat" else 4
    shapes = {
        "input": (2, 4, 3, 3),
        "weight": (4, 2, 2),
        "taps": (2, 2, 2),
        "offset": (2, 16, 2, 2),
        "bias": (outs,),
        "mask": (1, 8, 2, 2),
    }
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes.values()]

    def function(input, weight, taps, offset, bias, mask):
        more = {"mask": mask, "offset_groups": 2, "stride": 2, "output_size": (2, 2), "padding_mode": padding_mode}
        more |= {"groups": 2 if weighted else 1, "fuse": fuse}
        return sampled_conv2d(input, weight if weighted else None, taps, offset, bias, **more)

    def without_weight(input, taps, offset, bias, mask):
        return function(input, None, taps, offset, bias, mask)

    if not weighted:
        del tensors[1]
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(function if weighted else without_weight, tensors, fast_mode=True)


@pytest.mark.parametrize("frozen", range(5))
def test_gradients_with_one_input_frozen(frozen):
    shapes = [(1, 2, 3, 3), (3, 2, 2), (1, 2, 2), (1, 8, 3, 3), (1, 4, 3, 3)]
    tensors = [torch.randn(s, dtype=torch.float64, requires_grad=k != frozen) for k, s in enumerate(shapes)]

    def function(input, weight, taps, offset, mask):
        return sampled_conv2d(input, weight, taps, offset, mask=mask, offset_groups=2)

    assert torch.autograd.gradcheck(function, tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, tensors, fast_mode=True)


def test_forward_mode_and_torch_func_know_the_points_too():
    taps, mask = torch.randn(1, 4, 2, dtype=torch.float64), torch.rand(2, 8, 5, 5, dtype=torch.float64)
    input, weight = torch.randn(2, 4, 5, 5, dtype=torch.float64), torch.randn(3, 4, 4, dtype=torch.float64)

    def loss(weight, taps, mask, input):
        return sampled_conv2d(input, weight, taps, mask=mask, offset_groups=2).square().sum()

    given = [t.clone().requires_grad_() for t in (weight, taps, mask)]
    expected = torch.autograd.grad(loss(*given, input), given)
    found = torch.func.grad(loss, (0, 1, 2))(weight, taps, mask, input)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    tangents = [torch.randn_like(t) for t in given]
    _, slope = torch.func.jvp(lambda *three: loss(*three, input), (weight, taps, mask), tuple(tangents))
    torch.testing.assert_close(slope, sum((g * t).sum() for g, t in zip(expected, tangents, strict=True)))
    each = torch.func.vmap(torch.func.grad(loss, 0), (None, None, 0, 0))(weight, taps, mask[:, None], input[:, None])
    torch.testing.assert_close(each.sum(0), expected[0])


def test_a_border_is_replicated_padding():
    """Whole points within the padding: the convolution of the map padded by its own border."""
    input, weight = torch.randn(2, 4, 6, 7, dtype=torch.float64), torch.randn(5, 4, 3, 3, dtype=torch.float64)
    expected = F.conv2d(F.pad(input, (2, 2, 2, 2), mode="replicate"), weight, dilation=2)
    taps = scaled_taps(3, (2,))
    torch.testing.assert_close(sampled_conv2d(input, weight.flatten(2), taps, padding_mode="border"), expected)
    far = torch.full((1, 18, 6, 7), float("inf"), dtype=torch.float64)
    corner = input[:, :, -1:, -1:].expand(-1, -1, 6, 7)
    found = sampled_conv2d(input, weight.flatten(2), taps, far, padding_mode="border")
    torch.testing.assert_close(found, F.conv2d(corner, weight.sum((2, 3), keepdim=True)))


def test_no_weight_is_a_sum_and_a_mask_a_convolution_of_its_own():
    """Involution, by its formula: sum over t of m_gt(p) x_c(p + t)."""
    input = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    mask = torch.randn(2, 2 * 9, 5, 4, dtype=torch.float64)
    unfolded = F.unfold(input, 3, padding=1).reshape(2, 2, 3, 9, 5, 4)
    expected = (unfolded * mask.reshape(2, 2, 1, 9, 5, 4)).sum(3).flatten(1, 2)
    found = sampled_conv2d(input, None, scaled_taps(3, (1,)), mask=mask, offset_groups=2)
    torch.testing.assert_close(found, expected)


def test_exported_form_is_the_same():
    from foveal.ops.sampled import reference

    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    input, taps, offset, mask = random(2, 6, 7, 5), random(2, 3, 2), random(2, 24, 4, 3), random(2, 6, 4, 3)
    for weight, groups in ((None, 1), (random(4, 3, 3), 2)):
        for fuse in ("max", "sum", "concat"):
            for border in (False, True):
                rest = ([0, 1, 2, 3], [2, 2], groups, fuse, [4, 3], mask, [1, 2], 2, border)
                found = reference.exportable(input, weight, taps, offset, None, *rest)
                torch.testing.assert_close(found, reference.sampled_conv(input, weight, taps, offset, None, *rest)[0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mask": torch.zeros(1, 9, 8, 8)}, r"mask must have shape \(1, 36, 8, 8\), a factor for each tap"),
        (
            {"offset": torch.zeros(3, 72, 8, 8)},
            r"offset must have shape \(2, 72, 8, 8\)",
        ),
        ({"mask": [None] * 3}, "for each of the 2 sets, or for each of the 4 pairs of set and offset group; got 3"),
        ({"mask": [torch.zeros(1, 9, 8, 8)] * 2}, r"mask must have shape \(1, 18, 8, 8\)"),
        ({"offset_groups": 3}, "offset_groups must divide the 4 channels of input; got 3"),
        ({"offset_groups": 0}, "offset_groups must divide"),
        ({"padding_mode": "reflect"}, "padding_mode must be one of 'zeros', 'border'; got 'reflect'"),
        ({"weight": None, "groups": 2}, "groups must be 1 without a weight"),
        ({"weight": None, "bias": torch.zeros(3)}, r"bias must have shape \(4,\)"),
        ({"weight": None, "taps": torch.zeros(1, 0, 2)}, "at least one point"),
    ],
)
def test_bad_arguments(change, words):
    good = {"input": torch.zeros(1, 4, 8, 8), "weight": torch.zeros(4, 4, 9), "taps": scaled_taps(3, (1, 2))}
    good["offset_groups"] = 2
    if "offset" in change:
        good["input"] = torch.zeros(2, 4, 8, 8)
    with pytest.raises(ValueError, match=words):
        sampled_conv2d(**{**good, **change})
