"""Log-polar convolution of signals and volumes against loops in float64, with maps worked out once more, tap by tap."""

import copy
import itertools
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from foveal import LogPolarConv1d, LogPolarConv2d, LogPolarConv3d
from foveal.geometry import bin_population, log_polar_bins


def slow_bin_1d(step, half, radial, growth):
    """Level and side of one tap, or None at the centre."""
    limit = max(2.0, half * half / growth ** (radial - 1))
    level = 0
    while step * step > limit * (1 + 1e-6):
        limit *= growth
        level += 1
    return level, 0 if step > 0 else 1


def slow_bin_3d(dz, dy, dx, sides, radial, azimuths, elevations, growth, rotation, aspect, support):
    """One tap by the rule, in scalars: its number without the centre's, or None outside."""
    u = dx * math.cos(rotation) - dy * math.sin(rotation)
    v = -dx * math.sin(rotation) - dy * math.cos(rotation)
    distance = u * u + v * v / aspect[1] ** 2 + dz * dz / aspect[0] ** 2
    limit = max(2.0, ((max(sides) - 1) / 2) ** 2 / growth ** (radial - 1))
    level = 0
    while distance > limit * (1 + 1e-6):
        limit *= growth
        level += 1
        if level == radial:
            if support == "disk":
                return None
            level = radial - 1
            break
    around = (math.atan2(-dy, dx) if dx or dy else 0.0) + rotation + 1e-6
    azimuth = math.floor(around % (2 * math.pi) / (2 * math.pi) * azimuths)
    above = math.asin(max(-1.0, min(1.0, dz / math.sqrt(dz * dz + dy * dy + dx * dx)))) + math.pi / 2 + 1e-6
    elevation = min(math.floor(above / math.pi * elevations), elevations - 1)
    return (level * elevations + elevation) * azimuths + azimuth


@given(st.integers(0, 40).map(lambda n: 2 * n + 1), st.integers(1, 5), st.floats(1.1, 5), st.sampled_from([1, 2]))
def test_signals_map_equals_the_rule(side, radial, growth, angular):
    bins = log_polar_bins((side,), radial, angular, growth)
    assert bins.shape == (side,)
    for k, found in enumerate(bins.tolist()):
        step = k - side // 2
        if not step:
            assert found == 0
            continue
        level, before = slow_bin_1d(step, side // 2, radial, growth)
        assert found == 1 + level * angular + (before if angular == 2 else 0)
    assert torch.equal(bins, log_polar_bins((1, side), radial, angular, growth)[0])


@settings(max_examples=60)
@given(
    st.sampled_from([1, 3, 5, 7, (3, 5, 7), (7, 5, 3), (1, 5, 5)]),
    st.integers(1, 3),
    st.integers(1, 6),
    st.integers(1, 5),
    st.floats(1.1, 4),
    st.floats(-4, 4),
    st.sampled_from([None, (0.5, 1.3), (1.0, 1.0)]),
    st.sampled_from(["disk", "square"]),
)
def test_volumes_map_equals_the_rule(sides, radial, azimuths, elevations, growth, rotation, aspect, support):
    bins = log_polar_bins(
        sides, radial, (azimuths, elevations), growth, rotation=rotation, aspect_ratio=aspect, support=support
    )
    sides = (sides,) * 3 if isinstance(sides, int) else sides
    ratios = aspect or (sides[0] / sides[2], sides[1] / sides[2])
    disagree = 0
    for place in itertools.product(*map(range, sides)):
        steps = [p - s // 2 for p, s in zip(place, sides, strict=True)]
        if not any(steps):
            assert bins[place] == 0
            continue
        expected = slow_bin_3d(*steps, sides, radial, azimuths, elevations, growth, rotation, ratios, support)
        disagree += int(bins[place]) != (-1 if expected is None else expected + 1)
    assert disagree <= 2  # rounding may part the two where a tap lies within 1e-15 of a border


def test_a_flat_volume_has_the_maps_of_an_image():
    flat = log_polar_bins((1, 9, 9), 3, (8, 1), 2.0, rotation=0.3)
    assert torch.equal(flat[0], log_polar_bins(9, 3, 8, 2.0, rotation=0.3))


@pytest.mark.parametrize("center", ["own", "bin", "none"])
def test_centers(center):
    line, cube = log_polar_bins((5,), 1, 2, 2.0, center=center), log_polar_bins(3, 1, (4, 3), 2.0, center=center)
    assert int(line[2]) == {"own": 0, "bin": 0, "none": -1}[center]
    assert int(cube[1, 1, 1]) == {"own": 0, "bin": 4, "none": -1}[center]  # the middle elevation's first azimuth
    assert int(line[3]) == int(center == "own")
    assert int(cube[0, 1, 1]) == int(center == "own")  # straight towards depth 0: the lowest elevation


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (((4,), 1, 2, 2.0), "kernel_size must be a positive odd number, so that"),
        (((5,), 1, 3, 2.0), "angular_bins must be 1 or 2 in 1-D, which has two directions; got 3"),
        (((5, 5), 1, (4, 3), 2.0), "kernel_size must be a positive odd number or three of them"),
        ((4, 1, (4, 3), 2.0), "kernel_size must be a positive odd number or three of them"),
        ((5, 1, (4, 0), 2.0), r"angular_bins must be \(azimuth, elevation\) in 3-D, whole numbers of at least 1"),
        ((5, 1, (4, 3, 2), 2.0), r"angular_bins must be \(azimuth, elevation\)"),
    ],
)
def test_bad_maps(arguments, words):
    with pytest.raises(ValueError, match=words):
        log_polar_bins(*arguments)


def test_bad_shapes_of_maps():
    with pytest.raises(ValueError, match="rotation must be 0 and aspect_ratio None in 1-D"):
        log_polar_bins((5,), 1, 2, 2.0, rotation=0.1)
    with pytest.raises(ValueError, match=r"aspect_ratio must be \(depth / width, height / width\) in 3-D"):
        log_polar_bins(5, 1, (4, 3), 2.0, aspect_ratio=0.5)
    with pytest.raises(ValueError, match="aspect_ratio must be a finite number above 0"):
        log_polar_bins(5, 1, (4, 3), 2.0, aspect_ratio=(0.5, -1.0))


def slow_convolution(input, layer):
    """Section 3.2 with loops over samples, channels, positions and taps, in double: reduce each bin, then weigh it."""
    dims = input.ndim - 2
    bins, weight = layer.bins, layer.weight.detach().double()
    groups, columns = layer.groups, weight.shape[2]
    pads = [w // 2 for w in layer.window] if layer.padding != "valid" else [0] * dims
    sizes = [
        (n + 2 * p - w - 1) // s + 1
        for n, p, w, s in zip(input.shape[2:], pads, layer.window, layer.stride, strict=True)
    ]
    taps = list(itertools.product(*map(range, bins.shape)))
    values = input.detach().double()
    out = torch.zeros(input.shape[0], layer.out_channels, *sizes, dtype=torch.float64)
    for n in range(input.shape[0]):
        for position in itertools.product(*map(range, sizes)):
            pooled = torch.zeros(layer.in_channels, columns, dtype=torch.float64)
            for c in range(layer.in_channels):
                held = [[] for _ in range(columns)]
                for tap in taps:
                    at = [
                        i * s - p + t * d
                        for i, s, p, t, d in zip(position, layer.stride, pads, tap, layer.dilation, strict=True)
                    ]
                    inside = all(0 <= a < size for a, size in zip(at, input.shape[2:], strict=True))
                    if bins[tap] >= 0:
                        held[int(bins[tap])].append(float(values[(n, c, *at)]) if inside else 0.0)
                for b, found in enumerate(held):
                    if found:
                        pooled[c, b] = {"mean": sum(found) / len(found), "sum": sum(found), "max": max(found)}[
                            layer.reduce
                        ]
            for o in range(layer.out_channels):
                first = o // (layer.out_channels // groups) * (layer.in_channels // groups)
                part = pooled[first : first + layer.in_channels // groups]
                out[(n, o, *position)] = (weight[o] * part).sum()
    if layer.bias is not None:
        out += layer.bias.detach().double().reshape(-1, *(1,) * dims)
    return out


SIGNALS = {
    "plain": (lambda **k: LogPolarConv1d(2, 3, 9, radial_bins=3, **k), (2, 2, 11)),
    "strided, dilated, grouped": (
        lambda **k: LogPolarConv1d(4, 6, 7, 2, dilation=2, groups=2, bias=False, **k),
        (1, 4, 16),
    ),
    "symmetric, centre in the bin": (lambda **k: LogPolarConv1d(1, 2, 5, angular_bins=1, center="bin", **k), (1, 1, 6)),
    "valid, no centre": (lambda **k: LogPolarConv1d(1, 2, 5, padding="valid", center="none", **k), (1, 1, 6)),
    "long for its signal": (lambda **k: LogPolarConv1d(1, 2, 33, radial_bins=4, growth_rate=4.0, **k), (1, 1, 1)),
    "one tap": (lambda **k: LogPolarConv1d(1, 2, 1, **k), (1, 1, 4)),
    "own map": (lambda **k: LogPolarConv1d(1, 2, 3, bins=torch.tensor([1, -1, 0]), **k), (1, 1, 4)),
}
VOLUMES = {
    "plain": (lambda **k: LogPolarConv3d(1, 2, 5, **k), (1, 1, 4, 3, 5)),
    "strided, dilated, grouped": (
        lambda **k: LogPolarConv3d(2, 2, (1, 3, 3), (1, 2, 1), dilation=(1, 1, 2), groups=2, bias=False, **k),
        (1, 2, 2, 5, 6),
    ),
    "turned, square, centre in a bin": (
        lambda **k: LogPolarConv3d(1, 1, 3, angular_bins=(5, 2), rotation=0.4, support="square", center="bin", **k),
        (1, 1, 3, 4, 3),
    ),
    "empty bins": (lambda **k: LogPolarConv3d(1, 1, 3, radial_bins=3, angular_bins=(6, 4), **k), (1, 1, 1, 1, 1)),
    "own map": (
        lambda **k: LogPolarConv3d(1, 1, (1, 1, 3), bins=torch.tensor([[[0, -1, 0]]]), **k),
        (1, 1, 2, 2, 3),
    ),
}
CASES = [(f"1-D {name}", *case) for name, case in SIGNALS.items()] + [
    (f"3-D {name}", *case) for name, case in VOLUMES.items()
]


@pytest.mark.parametrize(("make", "shape"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
@pytest.mark.parametrize("reduce", ["mean", "sum", "max"])
def test_equals_loops(make, shape, reduce):
    layer = make(reduce=reduce, dtype=torch.float64)
    input = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(layer(input), slow_convolution(input, layer))
    torch.testing.assert_close(layer(input[0]), layer(input)[0])
    single = make(reduce=reduce)
    single.load_state_dict(layer.state_dict())
    torch.testing.assert_close(single(input.float()).double(), slow_convolution(input, layer), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("make", "shape"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_to_conv_copies_and_state(make, shape):
    layer = make().eval().requires_grad_(False)
    assert set(layer.state_dict()) <= {"weight", "bias"}
    input = torch.randn(shape)
    expected = layer(input)
    conv = layer.to_conv()
    assert type(conv) is (nn.Conv1d if len(shape) == 3 else nn.Conv3d)
    assert not conv.training
    assert not conv.weight.requires_grad
    torch.testing.assert_close(conv(input), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(conv.weight, layer.kernel())
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(input), expected)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_modes(mode):
    for layer, kind, shape in (
        (LogPolarConv1d(2, 3, 7, padding_mode=mode), nn.Conv1d, (1, 2, 9)),
        (LogPolarConv3d(2, 3, 3, padding_mode=mode), nn.Conv3d, (1, 2, 4, 5, 4)),
    ):
        conv = kind(2, 3, layer.kernel_size, padding=layer.padding, padding_mode=mode)
        with torch.no_grad():
            conv.weight.copy_(layer.kernel())
            conv.bias.copy_(layer.bias)
        input = torch.randn(shape)
        torch.testing.assert_close(layer(input), conv(input), rtol=1e-5, atol=1e-5)


def test_same_padding_of_an_even_map():
    """One more pixel behind than before, as nn.Conv3d pads."""
    bins = torch.tensor([0, 1, 1, 0]).reshape(1, 1, 4)
    layer = LogPolarConv3d(1, 1, (1, 1, 4), padding="same", bins=bins, reduce="sum", bias=False)
    line = LogPolarConv1d(1, 1, 4, padding="same", bins=bins[0, 0], reduce="sum", bias=False)
    line.load_state_dict(layer.state_dict())
    input = torch.randn(1, 1, 6)
    padded = nn.functional.pad(input, (1, 2))
    expected = nn.functional.conv1d(padded, layer.weight[..., [0, 1, 1, 0]])
    torch.testing.assert_close(line(input), expected)
    torch.testing.assert_close(layer(input[:, :, None, None])[:, :, 0, 0], expected)


@pytest.mark.parametrize("kind", [LogPolarConv1d, LogPolarConv3d])
def test_from_conv_projects_by_least_squares(kind):
    dims = kind.dims
    old = {1: nn.Conv1d, 3: nn.Conv3d}[dims](4, 6, 5, 2, padding=2, groups=2, dtype=torch.float64).eval()
    new = kind.from_conv(old, kernel_size=7, init="project", support="square")
    input = torch.randn(1, 4, *(9,) * dims, dtype=torch.float64)
    assert new(input).shape == old(input).shape
    assert not new.training
    assert torch.equal(new.bias, old.bias)
    dense = nn.functional.pad(old.weight, (1, 1) * dims).detach().flatten(2).flatten(0, 1)
    basis = nn.functional.one_hot(new.bins.flatten(), new.weight.shape[2]).double()
    used = basis[:, basis.any(0)]
    best = used @ torch.linalg.lstsq(used, dense.T).solution
    torch.testing.assert_close(new.kernel().detach().flatten(2).flatten(0, 1), best.T)


@pytest.mark.parametrize(
    ("make", "shape"), [CASES[0][1:], CASES[1][1:], CASES[7][1:]], ids=["1-D", "1-D strided", "3-D"]
)
@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_gradients(make, shape, reduce):
    layer = make(reduce=reduce, dtype=torch.float64)
    input = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, input)
    names, values = zip(*((n, p.detach().requires_grad_()) for n, p in layer.named_parameters()), strict=True)
    assert torch.autograd.gradcheck(
        lambda *v: torch.func.functional_call(layer, dict(zip(names, v, strict=True)), input.detach()), values
    )


@pytest.mark.parametrize("kind", [LogPolarConv1d, LogPolarConv3d])
@pytest.mark.parametrize("reduce", ["mean", "max"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_and_autocast(kind, reduce, dtype):
    layer = kind(2, 4, 5, reduce=reduce)
    input = torch.randn(2, 2, *(7,) * kind.dims)
    expected = layer(input)
    with torch.autocast("cpu", dtype=dtype):
        cast = layer(input)
    assert cast.dtype == dtype
    torch.testing.assert_close(cast.float(), expected, rtol=0.05, atol=0.05)
    output = layer.to(dtype)(input.to(dtype))
    assert output.dtype == dtype
    torch.testing.assert_close(output.float(), expected, rtol=0.05, atol=0.05)
    output.sum().backward()
    assert layer.weight.grad.isfinite().all()
    assert layer.bins.dtype == torch.int64


@pytest.mark.parametrize("kind", [LogPolarConv1d, LogPolarConv3d])
@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_compiles_whole(kind, reduce):
    torch._dynamo.reset()  # other tests compile the same forward for more layers than it recompiles for
    layer = kind(2, 4, 3, reduce=reduce)
    input = torch.randn(1, 2, *(5,) * kind.dims)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(input), layer(input))
    compiled(input).sum().backward()
    found = layer.weight.grad.clone()
    layer.zero_grad()
    layer(input).sum().backward()
    torch.testing.assert_close(found, layer.weight.grad)


@pytest.mark.parametrize("kind", [LogPolarConv1d, LogPolarConv3d])
def test_meta_and_back(kind):
    with torch.device("meta"):
        layer = kind(2, 4, 5)
    shape = (1, 2, *(6,) * kind.dims)
    assert layer(torch.zeros(shape, device="meta")).shape == (1, 4, *(6,) * kind.dims)
    layer = layer.to_empty(device="cpu")
    whole = kind(2, 4, 5)
    assert torch.equal(layer.bins, whole.bins)
    layer.load_state_dict(whole.state_dict())
    input = torch.randn(shape)
    assert torch.equal(layer(input), whole(input))


def test_weights_for_a_field():
    assert LogPolarConv1d(1, 1, 129, radial_bins=6, growth_rate=4.0).weight.shape == (1, 1, 13)
    assert LogPolarConv3d(1, 1, 9, radial_bins=2, angular_bins=(4, 3)).weight.shape == (1, 1, 25)
    assert bin_population(LogPolarConv1d(1, 1, 129, radial_bins=6, growth_rate=4.0).bins).tolist() == [
        1, 2, 2, 2, 2, 4, 4, 8, 8, 16, 16, 32, 32,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        (LogPolarConv1d, {"kernel_size": 4}, "kernel_size must be a positive odd number, so that"),
        (LogPolarConv1d, {"kernel_size": (3, 3)}, "kernel_size must be a whole number of at least 1; got"),
        (LogPolarConv1d, {"angular_bins": 4}, "angular_bins must be 1 or 2 in 1-D"),
        (LogPolarConv1d, {"stride": (2, 2)}, "stride must be a whole number of at least 1; got"),
        (
            LogPolarConv1d,
            {"bins": torch.zeros(3, dtype=torch.int64)},
            r"bins must be an int64 tensor of kernel_size \(5,\)",
        ),
        (LogPolarConv3d, {"kernel_size": (3, 3)}, "kernel_size must be a whole number of at least 1 or three of them"),
        (LogPolarConv3d, {"angular_bins": 6}, r"angular_bins must be \(azimuth, elevation\) in 3-D; got 6"),
        (LogPolarConv3d, {"growth_rate": 1.0}, "growth_rate must be a finite number above 1"),
        (LogPolarConv3d, {"padding": "same", "stride": 2}, "padding='same' needs stride 1"),
        (LogPolarConv3d, {"reduce": "median"}, "reduce must be one of 'mean', 'sum', 'max'"),
        (LogPolarConv3d, {"groups": 3}, "in_channels must be a multiple of groups, 3; got 4"),
    ],
)
def test_bad_arguments(kind, change, words):
    with pytest.raises(ValueError, match=words):
        kind(**{"in_channels": 4, "out_channels": 8, "kernel_size": 5, **change})


def test_wrong_input_is_named():
    for layer, good in ((LogPolarConv1d(3, 4, 5), (1, 3, 8)), (LogPolarConv3d(3, 4, 5), (1, 3, 8, 8, 8))):
        layer(torch.zeros(good))
        for bad in ((1, 4, *good[2:]), (*good, 8), good[:1], (1, 3, 0, *good[3:])):
            with pytest.raises(ValueError, match="input must have"):
                layer(torch.zeros(bad))
        with pytest.raises(ValueError, match="input must be float64"):
            layer(torch.zeros(good, dtype=torch.int64))


def test_a_layer_stands_for_a_convolution_of_its_dimensions():
    with pytest.raises(ValueError, match=r"only an nn\.Conv1d can be replaced; got Conv3d"):
        LogPolarConv1d.from_conv(nn.Conv3d(2, 2, 3))
    with pytest.raises(ValueError, match=r"only an nn\.Conv2d can be replaced; got Conv1d; in 1-D there are conv"):
        LogPolarConv2d.from_conv(nn.Conv1d(2, 2, 3))


def test_repr_says_how_to_build_it():
    assert repr(LogPolarConv1d(3, 4, 9, bias=False)) == (
        "LogPolarConv1d(3, 4, kernel_size=(9,), stride=(1,), padding=(4,), bias=False, radial_bins=2, angular_bins=2, "
        "growth_rate=2.0, support='disk', center='own', reduce='mean')"
    )
    assert "angular_bins=(4, 3)" in repr(LogPolarConv3d(3, 4, 9))
