"""Log-polar convolution of points against loops over pairs, and on a grid against the layer of images."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal import LogPolarConv2d, LogPolarConv3d, PointLogPolarConv
from foveal.layers import near
from foveal.layers import points as points_file


def grid(*sizes):
    """The pixels of an image as points, row by row."""
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in sizes), indexing="ij")
    return torch.stack(axes, -1).flatten(0, -2)


def slow_bin(offset, radius, radial, angular, growth, rotation, spacing):
    """One pair by the rule, in scalars: its bin without the centre's, or None beyond the last limit."""
    limit = max(2 * spacing**2, radius**2 / growth ** (radial - 1))
    square = math.fsum(v * v for v in offset)
    level = 0
    while square > limit * (1 + 1e-6):
        level, limit = level + 1, limit * growth
        if level == radial:
            return None
    *_, down, right = offset
    azimuths, elevations = angular if isinstance(angular, tuple) else (angular, 1)
    azimuth = math.floor((math.atan2(-down, right) + rotation + 1e-6) / (2 * math.pi) * azimuths) % azimuths
    elevation = 0
    if len(offset) == 3:
        above = math.atan2(offset[0], math.hypot(down, right)) + math.pi / 2 + 1e-6
        elevation = min(math.floor(above / math.pi * elevations), elevations - 1)
    return (level * elevations + elevation) * azimuths + azimuth


def slow_layer(layer, points, features, queries=None):
    """One set, query by query and neighbour by neighbour, in float64."""
    queries = points if queries is None else queries
    first = int(layer.map.center == "own")
    rule = [getattr(layer.map, key) for key in ("radial_bins", "angular_bins", "growth_rate", "rotation")]
    rule.append(layer.spacing)
    weight = layer.weight.detach().double()
    rows = []
    for query in queries.tolist():
        offsets = [[a - b for a, b in zip(point, query, strict=True)] for point in points.tolist()]
        lengths = [math.hypot(*offset) for offset in offsets]
        near = [k for k, length in enumerate(lengths) if length > 0]
        radius = layer.radius
        if layer.nearest is not None:
            near = sorted(near, key=lambda k: lengths[k])[: layer.nearest]
            if radius is None:
                radius = max((lengths[k] for k in near), default=1.0)
        held = {}
        for k, offset in enumerate(offsets):
            if lengths[k] == 0:
                b = {"own": 0, "none": None, "bin": slow_bin(offset, radius, *rule)}[layer.map.center]
            elif k in near:
                b = slow_bin(offset, radius, *rule)
                b = None if b is None else b + first
            else:
                b = None
            if b is not None:
                held.setdefault(b, []).append(features[k].double())
        out = torch.zeros(layer.out_channels, dtype=torch.float64)
        for b, found in held.items():
            total = torch.stack(found).sum(0)
            out += weight[:, :, b] @ (total / len(found) if layer.reduce == "mean" else total)
        rows.append(out if layer.bias is None else out + layer.bias.detach().double())
    return torch.stack(rows)


@settings(max_examples=40)
@given(
    st.sampled_from([(0.5, None), (0.5, 3), (None, 4), (None, 100)]),
    st.integers(1, 3),
    st.sampled_from([1, 2, 6, 7, (4, 3), (1, 2)]),
    st.floats(1.2, 5),
    st.sampled_from([0.0, 0.7, -3.0]),
    st.sampled_from(["mean", "sum"]),
    st.sampled_from(["own", "bin", "none"]),
    st.integers(1, 12),
)
def test_equals_loops(search, radial, angular, growth, rotation, reduce, center, count):
    radius, nearest = search
    layer = PointLogPolarConv(
        2, 3, radius, nearest, radial_bins=radial, angular_bins=angular, growth_rate=growth, rotation=rotation,
        reduce=reduce, center=center, dtype=torch.float64,
    )  # fmt: skip
    points, features = torch.rand(count, layer.dims, dtype=torch.float64), torch.randn(count, 2, dtype=torch.float64)
    torch.testing.assert_close(layer(points, features), slow_layer(layer, points, features))
    queries = torch.rand(5, layer.dims, dtype=torch.float64)
    torch.testing.assert_close(layer(points, features, queries=queries), slow_layer(layer, points, features, queries))


SETTINGS = [
    {"kernel_size": 5, "radial_bins": 2, "angular_bins": 6, "growth_rate": 3.0},  # limit 6 beyond R^2 = 4
    {"kernel_size": 9, "radial_bins": 2, "angular_bins": 6, "growth_rate": 3.0},
    {"kernel_size": 7, "radial_bins": 3, "angular_bins": 8, "growth_rate": 1.5, "rotation": 0.3, "reduce": "sum"},
    {"kernel_size": 5, "radial_bins": 1, "angular_bins": 5, "growth_rate": 2.0, "center": "none"},
    {"kernel_size": 5, "radial_bins": 1, "angular_bins": 4, "growth_rate": 2.0, "center": "bin"},
]


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_on_a_grid_it_is_the_layer_of_images(setting):
    """Everywhere inside; and with the map's counts for divisor at the borders, too."""
    side = setting["kernel_size"]
    image_layer = LogPolarConv2d(2, 3, dtype=torch.float64, **setting)
    rest = {key: value for key, value in setting.items() if key != "kernel_size"}
    same = {"radius": (side - 1) / 2, "spacing": 1.0, "dtype": torch.float64, **rest}
    image = torch.randn(2, 2, 12, 11, dtype=torch.float64)
    points, features = grid(12, 11).expand(2, -1, -1), image.flatten(2).transpose(1, 2)
    expected = image_layer(image)

    layer = PointLogPolarConv(2, 3, **same)
    layer.load_state_dict(image_layer.state_dict())
    output = layer(points, features).transpose(1, 2).unflatten(2, (12, 11))
    half = side // 2
    inside = (..., slice(half, -half), slice(half, -half))
    torch.testing.assert_close(output[inside], expected[inside])
    if layer.reduce == "mean":
        assert not torch.allclose(output, expected)
        layer = PointLogPolarConv(2, 3, population=image_layer.population, **same)
        layer.load_state_dict(image_layer.state_dict())
    torch.testing.assert_close(layer(points, features).transpose(1, 2).unflatten(2, (12, 11)), expected)


def test_on_a_grid_of_other_spacing_and_at_strided_queries():
    image_layer = LogPolarConv2d(1, 2, 9, stride=3, growth_rate=3.0, dtype=torch.float64)
    layer = PointLogPolarConv(
        1, 2, 4 * 0.25, spacing=0.25, growth_rate=3.0, population=image_layer.population, dtype=torch.float64
    )
    layer.load_state_dict(image_layer.state_dict())
    image = torch.randn(1, 1, 10, 10, dtype=torch.float64)
    points, queries = 0.25 * grid(10, 10)[None] - 7, 0.25 * 3 * grid(4, 4)[None] - 7
    output = layer(points, image.flatten(2).transpose(1, 2), queries=queries)
    torch.testing.assert_close(output.transpose(1, 2).unflatten(2, (4, 4)), image_layer(image))


def test_on_a_grid_in_space_it_is_the_layer_of_volumes():
    volume_layer = LogPolarConv3d(1, 2, 5, angular_bins=(4, 3), dtype=torch.float64)
    layer = PointLogPolarConv(
        1, 2, 2.0, spacing=1.0, angular_bins=(4, 3), population=volume_layer.population, dtype=torch.float64
    )
    layer.load_state_dict(volume_layer.state_dict())
    volume = torch.randn(1, 1, 5, 6, 4, dtype=torch.float64)
    output = layer(grid(5, 6, 4)[None], volume.flatten(2).transpose(1, 2))
    torch.testing.assert_close(output.transpose(1, 2).unflatten(2, (5, 6, 4)), volume_layer(volume))


@pytest.mark.parametrize("search", [{"radius": 0.4}, {"nearest": 3}, {"radius": 0.4, "nearest": 3}], ids=str)
def test_padding_of_a_set_changes_nothing(search):
    layer = PointLogPolarConv(2, 3, **search)
    points, features = torch.rand(2, 9, 2), torch.randn(2, 9, 2)
    mask = torch.tensor([[True] * 9, [True] * 5 + [False] * 4])
    points[1, 5:], features[1, 5:] = math.nan, math.nan
    output = layer(points, features, mask)
    torch.testing.assert_close(output[0], layer(points[0], features[0]))
    torch.testing.assert_close(output[1, :5], layer(points[1, :5], features[1, :5]))
    assert (output[1, 5:] == 0).all()
    output.sum().backward()
    assert layer.weight.grad.isfinite().all()


def test_points_at_one_place_share_the_own_weight():
    layer = PointLogPolarConv(1, 1, 1.0, bias=False)
    points, features = torch.tensor([[0.0, 0.0], [0.0, 0.0], [9.0, 9.0]]), torch.tensor([[1.0], [3.0], [5.0]])
    output = layer(points, features)
    own = layer.weight[0, 0, 0]
    torch.testing.assert_close(output[:, 0], torch.stack([2 * own, 2 * own, 5 * own]))
    alone = layer(points, features, queries=torch.tensor([[0.5, 0.0], [100.0, 0.0]]))
    assert alone[0] != 0
    assert alone[1] == 0


def test_the_order_of_points_does_not_matter_and_neither_does_a_shift():
    layer = PointLogPolarConv(2, 3, nearest=4, dtype=torch.float64)
    points, features = torch.rand(20, 2, dtype=torch.float64), torch.randn(20, 2, dtype=torch.float64)
    output, order = layer(points, features), torch.randperm(20)
    torch.testing.assert_close(layer(points[order], features[order]), output[order])
    torch.testing.assert_close(layer(points + 0.5, features), output)
    torch.testing.assert_close(layer(points * 64, features), output)


@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_gradients(reduce):
    layer = PointLogPolarConv(2, 3, 0.6, reduce=reduce, dtype=torch.float64)
    points, mask = torch.rand(2, 6, 2, dtype=torch.float64), torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    features = torch.randn(2, 6, 2, dtype=torch.float64, requires_grad=True)

    def run(features, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (points, features, mask))

    values = (features, layer.weight, layer.bias)
    assert torch.autograd.gradcheck(run, values)
    assert torch.autograd.gradgradcheck(run, values)


@pytest.mark.parametrize(
    ("sets", "points_", "queries"), [(2, 0, None), (0, 5, None), (2, 0, 3), (2, 4, 0), (0, 0, None)]
)
@pytest.mark.parametrize("search", [{"radius": 0.6}, {"nearest": 3}])
def test_second_derivatives_of_nothing(sets, points_, queries, search):
    layer = PointLogPolarConv(2, 3, **search, dtype=torch.float64)
    points, features = (torch.rand(sets, points_, 2, dtype=torch.float64) for _ in range(2))
    around = None if queries is None else torch.rand(sets, queries, 2, dtype=torch.float64)
    output = layer(points, features.requires_grad_(), queries=around)
    first = torch.autograd.grad(output.square().sum(), (features, layer.weight), create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), (features, layer.weight))
    assert [g.shape for g in second] == [features.shape, layer.weight.shape]
    assert all(g.isfinite().all() for g in second)


def test_rows_at_a_time_give_what_all_at_once_gives(monkeypatch):
    points, features = torch.rand(2, 30, 2), torch.randn(2, 30, 2)
    for search in ({"radius": 0.3}, {"nearest": 5}):
        layer = PointLogPolarConv(2, 3, **search)
        expected = layer(points, features)
        with monkeypatch.context() as patch:
            patch.setitem(near.PAIRS_AT_ONCE, "cpu", 7)
            patch.setattr(points_file, "_PAIRS_AT_ONCE", 7)
            torch.testing.assert_close(layer(points, features), expected)


def test_memory_follows_the_neighbours_and_not_their_square(largest_storage):
    """The largest tensor of a forward and backward pass over 12,000 points is the pooled features."""

    count = 12_000
    layer = PointLogPolarConv(4, 4, 0.01)
    points, features = torch.rand(count, 2), torch.randn(count, 4, requires_grad=True)
    with largest_storage() as seen:
        layer(points, features).sum().backward()
    assert seen.bytes == 4 * count * 13 * 4 < count**2 / 50


def test_neighbours_found_once_serve_many_layers():
    points, mask = torch.rand(2, 15, 2), torch.rand(2, 15) < 0.8
    first, second = PointLogPolarConv(2, 3, 0.4), PointLogPolarConv(3, 5, 0.4)
    features = torch.randn(2, 15, 2)
    found = first.neighbors(points, mask)
    expected = second(points, first(points, features, mask), mask)
    assert torch.equal(second.weigh(found, first.weigh(found, features)), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_and_autocast(dtype):
    layer = PointLogPolarConv(4, 4, 0.5)
    points, features = torch.rand(1, 40, 2), torch.randn(1, 40, 4)
    expected = layer(points, features)
    with torch.autocast("cpu", dtype=dtype):
        cast = layer(points, features)
    assert cast.dtype == dtype
    torch.testing.assert_close(cast.float(), expected, rtol=0.05, atol=0.05)
    output = layer.to(dtype)(points, features.to(dtype))  # coordinates keep float32
    assert output.dtype == dtype
    torch.testing.assert_close(output.float(), expected, rtol=0.05, atol=0.05)


def test_state_copies_and_meta():
    population = torch.arange(1, 14)
    layer = PointLogPolarConv(2, 3, 0.5, population=population)
    assert set(layer.state_dict()) == {"weight", "bias"}
    points, features = torch.rand(1, 10, 2), torch.randn(1, 10, 2)
    expected = layer(points, features)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(points, features), expected)
    with torch.device("meta"):
        empty = PointLogPolarConv(2, 3, 0.5, population=torch.arange(1, 14, device="cpu"))
    empty = empty.to_empty(device="cpu")
    empty.load_state_dict(layer.state_dict())
    assert torch.equal(empty(points, features), expected)
    assert torch.equal(empty.half().population, population)


def test_one_point_and_whole_numbers():
    layer = PointLogPolarConv(1, 2, nearest=3)
    torch.testing.assert_close(layer(torch.zeros(1, 2), torch.ones(1, 1))[0], layer.weight[:, 0, 0] + layer.bias)
    pixels = torch.randint(0, 9, (6, 2))
    assert torch.equal(layer(pixels, torch.ones(6, 1)), layer(pixels.float(), torch.ones(6, 1)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"radius": None}, "give radius, the number of nearest neighbours, or both"),
        ({"radius": 0.0}, "radius must be a finite number above 0; got 0.0"),
        ({"radius": -1}, "radius must be a finite number above 0"),
        ({"radius": math.nan}, "radius must be a finite number above 0"),
        ({"nearest": 0}, "nearest must be a whole number of at least 1; got 0"),
        ({"radius": None, "nearest": 2, "spacing": 1.0}, "spacing needs a radius"),
        ({"spacing": -1.0}, "spacing must be a distance, at least 0; got -1.0"),
        ({"reduce": "max"}, "reduce must be one of 'mean', 'sum'; got 'max'"),
        ({"center": "middle"}, "center must be one of"),
        ({"angular_bins": 0}, "angular_bins must be a whole number of at least 1"),
        ({"angular_bins": (4, 3, 2)}, r"angular_bins must be \(azimuth, elevation\)"),
        ({"growth_rate": 1.0}, "growth_rate must be a finite number above 1"),
        ({"radial_bins": 0}, "radial_bins must be"),
        ({"population": torch.ones(4)}, r"population must be 13 positive numbers; got shape \(4,\)"),
        ({"population": torch.zeros(13)}, "population must be 13 positive numbers"),
        ({"population": torch.ones(13), "reduce": "sum"}, "leave it out with reduce='sum'"),
        ({"in_channels": 0}, "in_channels must be"),
    ],
)
def test_bad_arguments(change, words):
    with pytest.raises(ValueError, match=words):
        PointLogPolarConv(**{"in_channels": 2, "out_channels": 3, "radius": 1.0, **change})


@pytest.mark.parametrize("search", [{"radius": 0.5}, {"nearest": 3}, {"radius": 0.5, "nearest": 3}])
def test_sets_without_points(search):
    layer = PointLogPolarConv(2, 3, **search)
    points, features = torch.rand(2, 5, 2), torch.randn(2, 5, 2)
    mask = torch.tensor([[True] * 5, [False] * 5])
    assert layer(points, features, mask)[1].eq(0).all()
    assert torch.equal(layer(points, features, mask, points)[1], layer.bias.expand(5, 3))  # all that its bins hold
    # the product of fewer rows may add up in another order
    torch.testing.assert_close(layer(points, features, mask)[0], layer(points, features)[0], rtol=1e-5, atol=1e-6)
    assert layer(points[:, :0], features[:, :0]).shape == (2, 0, 3)
    assert torch.equal(layer(points[:, :0], features[:, :0], None, points), layer.bias.expand(2, 5, 3))
    assert layer(points[:0], features[:0]).shape == (0, 5, 3)


def test_wrong_input_is_named():
    layer = PointLogPolarConv(2, 3, 1.0)
    points, features, mask = torch.rand(2, 5, 2), torch.randn(2, 5, 2), torch.ones(2, 5, dtype=torch.bool)
    infinite = points.clone()
    infinite[1, 3, 0] = math.inf
    for call, words in (
        (
            (torch.rand(2, 5, 3), features),
            r"points must be \[N, P, 2\] or \[P, 2\]; got shape \(2, 5, 3\)",
        ),
        ((torch.rand(2, 5, 2, 1), features), "points must be"),
        ((infinite, features), r"points must be finite; points\[1, 3\] is \[inf, 0\.\d+\]"),
        ((points * math.nan, features), r"points must be finite; points\[0, 0\] is \[nan, nan\]"),
        ((points, features[..., :1]), r"features must be \[N, P, 2\] or \[P, 2\]; got shape \(2, 5, 1\)"),
        ((points, features[:, :4]), "features must have one row a point"),
        ((points, features.double()), "features must have the dtype of weight"),
        ((points, features, mask[:, :4]), r"mask must be bool \(2, 5\); got"),
        ((points, features, mask.float()), r"mask must be bool \(2, 5\); got torch.float32"),
        ((points, features, mask, points[:1]), "queries must be of 2 sets, as points; got 1"),
        ((points, features, mask, points * math.nan), r"queries must be finite; queries\[0, 0\]"),
    ):
        with pytest.raises(ValueError, match=words):
            layer(*call)
    assert layer(infinite, features, mask & infinite.isfinite().all(2)).isfinite().all()


def test_repr_says_how_to_build_it():
    text = repr(PointLogPolarConv(2, 3, 0.5, bias=False, angular_bins=[4, 3]))
    assert text == (
        "PointLogPolarConv(2, 3, radius=0.5, nearest=None, bias=False, radial_bins=2, angular_bins=(4, 3), growth_rate=2.0, "
        "rotation=0.0, spacing=0.0, center='own', reduce='mean')"
    )
