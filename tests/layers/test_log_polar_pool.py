"""Log-polar pooling against loops over pixels, and with the paper's two convolutions against the log-polar convolution."""

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal import LogPolarConv2d, LogPolarPool2d
from foveal.geometry import log_polar_bins

REDUCES = ("mean", "sum", "max")


def slow_pool(image, bins, columns, reduce, stride=1, dilation=1, padding=None):
    """Bin by bin and position by position, in plain numbers: what each bin holds is collected and reduced."""
    batch, channels, height, width = image.shape
    kh, kw = bins.shape
    down, right = padding if padding else (dilation * (kh - 1) // 2, dilation * (kw - 1) // 2)
    rows = (height + 2 * down - dilation * (kh - 1) - 1) // stride + 1
    cols = (width + 2 * right - dilation * (kw - 1) - 1) // stride + 1
    out = torch.zeros(batch, channels, columns, rows, cols, dtype=torch.float64)
    pixels, map_ = image.double().tolist(), bins.tolist()
    for n in range(batch):
        for c in range(channels):
            for i in range(rows):
                for j in range(cols):
                    held = {}
                    for y in range(kh):
                        for x in range(kw):
                            row, col = i * stride - down + y * dilation, j * stride - right + x * dilation
                            inside = 0 <= row < height and 0 <= col < width
                            held.setdefault(map_[y][x], []).append(pixels[n][c][row][col] if inside else 0.0)
                    for b in range(columns):
                        if b in held:
                            total = math.fsum(held[b])
                            found = {"sum": total, "mean": total / len(held[b]), "max": max(held[b])}[reduce]
                            out[n, c, b, i, j] = found
    return out


@settings(max_examples=25)
@given(
    st.sampled_from([1, 3, 5, (3, 7), (7, 1)]),
    st.integers(1, 3),
    st.integers(1, 8),
    st.sampled_from(["disk", "square"]),
    st.sampled_from(REDUCES),
    st.sampled_from(["own", "bin", "none"]),
    st.integers(1, 2),
    st.integers(1, 2),
)
def test_equals_loops(side, radial, angular, support, reduce, center, stride, dilation):
    arguments = {"radial_bins": radial, "angular_bins": angular, "growth_rate": 2.0, "support": support}
    pool = LogPolarPool2d(
        side, stride, dilation=dilation, reduce=reduce, center=center, arrangement="bins", **arguments
    )
    image = torch.randn(2, 2, 5, 6, dtype=torch.float64)
    bins = log_polar_bins(side, center=center, **arguments)
    columns = radial * angular + (center == "own")
    torch.testing.assert_close(pool(image), slow_pool(image, bins, columns, reduce, stride, dilation))
    torch.testing.assert_close(pool(image.requires_grad_()).detach(), pool(image.detach()))


@pytest.mark.parametrize("reduce", REDUCES)
def test_padding_given_and_odd_sizes(reduce):
    pool = LogPolarPool2d((3, 5), 2, (0, 1), reduce=reduce, arrangement="bins")
    image = torch.randn(1, 1, 4, 7, dtype=torch.float64)
    bins = log_polar_bins((3, 5), 2, 6, 2.0, center="none")
    torch.testing.assert_close(pool(image), slow_pool(image, bins, 12, reduce, 2, 1, (0, 1)))


def test_hand_example_of_the_authors_map():
    """A 3x3 image of 0 .. 8, one level, four sectors, the centre counted in its bin: the matrix at the middle."""
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    pool = LogPolarPool2d(3, radial_bins=1, angular_bins=4, growth_rate=4.0, support="square", center="bin")
    middle = pool(image)[0, 0, 2:4, 2:4]
    torch.testing.assert_close(middle, torch.tensor([[0.5, 11 / 3], [4.5, 7.5]]))


@pytest.mark.parametrize(("radial", "angular"), [(1, 2), (2, 6), (3, 8)])
def test_grid_keeps_the_places_of_the_regions(radial, angular):
    """Up and left of each other in the map as around the pixel: each region by its level and sector alone."""
    pool = LogPolarPool2d(9, radial_bins=radial, angular_bins=angular)
    bins = LogPolarPool2d(9, radial_bins=radial, angular_bins=angular, arrangement="bins")
    image = torch.randn(2, 3, 5, 4)
    grid, plain = pool(image), bins(image)
    assert grid.shape == (2, 3, 2 * radial * 5, angular // 2 * 4)
    half = angular // 2
    for level in range(radial):
        for sector in range(angular):
            row, col = (radial - 1 - level, half - 1 - sector) if sector < half else (radial + level, sector - half)
            for i in range(5):
                for j in range(4):
                    cell = grid[:, :, i * 2 * radial + row, j * half + col]
                    assert torch.equal(cell, plain[:, :, level * angular + sector, i, j])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("reduce", REDUCES)
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
def test_pooling_and_two_convolutions_are_the_log_polar_convolution(stride, reduce, padding_mode):
    """Section 3.2: outputs, and the gradients of the image, both weights and the bias."""
    radial, angular, common = 3, 8, {"growth_rate": 2.0, "reduce": reduce, "padding_mode": padding_mode}
    layer = LogPolarConv2d(2, 4, 9, stride, radial_bins=radial, angular_bins=angular, dtype=torch.float64, **common)
    pool = LogPolarPool2d(9, stride, radial_bins=radial, angular_bins=angular, **common)
    cells = [
        level * angular + sector
        for level, sectors in [
            *((k, range(angular // 2 - 1, -1, -1)) for k in reversed(range(radial))),
            *((k, range(angular // 2, angular)) for k in range(radial)),
        ]
        for sector in sectors
    ]
    regions = layer.weight.detach()[:, :, 1:][:, :, cells].unflatten(2, (2 * radial, angular // 2)).requires_grad_()
    centre = layer.weight.detach()[:, :, :1, None].clone().requires_grad_()
    bias = layer.bias.detach().clone().requires_grad_()
    image = torch.randn(2, 2, 7, 8, dtype=torch.float64, requires_grad=True)
    twin = image.detach().clone().requires_grad_()

    expected = layer(image)
    got = F.conv2d(pool(twin), regions, bias, stride=(2 * radial, angular // 2)) + F.conv2d(twin, centre, stride=stride)
    torch.testing.assert_close(got, expected)
    pull = torch.randn_like(expected)
    expected.backward(pull)
    got.backward(pull)
    torch.testing.assert_close(twin.grad, image.grad)
    torch.testing.assert_close(regions.grad.flatten(2), layer.weight.grad[:, :, 1:][:, :, cells])
    torch.testing.assert_close(centre.grad[..., 0], layer.weight.grad[:, :, :1])
    torch.testing.assert_close(bias.grad, layer.bias.grad)


@pytest.mark.parametrize("reduce", REDUCES)
def test_gradients(reduce):
    pool = LogPolarPool2d(5, 2, dilation=2, reduce=reduce, center="own", arrangement="bins")
    image = torch.randn(1, 2, 6, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(pool, image)
    assert torch.autograd.gradgradcheck(pool, image)
    expected = torch.autograd.grad(pool(image).sin().sum(), image)[0]
    torch.testing.assert_close(torch.func.grad(lambda x: pool(x).sin().sum())(image), expected)
    torch.testing.assert_close(torch.func.vmap(pool)(image[None]), pool(image)[None])


def test_zeros_of_the_padding_are_pixels_like_others():
    image = torch.full((1, 1, 1, 1), -6.0)
    for reduce, expected in (("mean", -6 / 8), ("sum", -6.0), ("max", 0.0)):
        pool = LogPolarPool2d(3, radial_bins=1, angular_bins=1, padding=2, reduce=reduce, arrangement="bins")
        assert float(pool(image)[0, 0, 0, 0, 0]) == pytest.approx(expected)


def test_bins_without_pixels_give_zero_and_take_no_gradient():
    pool = LogPolarPool2d(3, radial_bins=2, angular_bins=8, growth_rate=2.0, arrangement="bins", reduce="max")
    image = torch.full((1, 1, 3, 3), -1.0, requires_grad=True)
    output = pool(image)
    assert (output[:, :, 8:] == 0).all()
    assert (output[0, 0, :8, 1, 1] == -1).all()
    output[:, :, 8:].sum().backward()
    assert (image.grad == 0).all()


def test_the_first_of_equal_pixels_takes_the_gradient_of_a_maximum():
    image = torch.ones(1, 1, 5, 5, requires_grad=True)
    pool = LogPolarPool2d(5, radial_bins=1, angular_bins=1, padding=0, reduce="max", arrangement="bins")
    pool(image).sum().backward()
    expected = torch.zeros(5, 5)
    expected[0, 2] = 1  # the topmost tap of the disk
    assert torch.equal(image.grad[0, 0], expected)


@pytest.mark.parametrize("reduce", REDUCES)
@pytest.mark.parametrize("trained", [False, True])
def test_nan_and_infinity_stay_in_their_bin(reduce, trained):
    pool = LogPolarPool2d(3, radial_bins=1, angular_bins=8, padding=0, reduce=reduce, arrangement="bins")
    for value in (math.nan, math.inf):
        image = torch.zeros(1, 1, 3, 3)
        image[0, 0, 1, 2] = value  # right: sector 0
        output = pool(image.requires_grad_(trained))[0, 0, :, 0, 0]
        assert output[0].isnan() if math.isnan(value) else output[0] == math.inf
        assert (output[1:] == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reduce", REDUCES)
def test_half_types_err_by_one_rounding(dtype, reduce):
    pool = LogPolarPool2d(15, radial_bins=1, angular_bins=2, reduce=reduce, arrangement="bins")
    image = torch.rand(1, 2, 9, 9).to(dtype).requires_grad_()
    output = pool(image)
    assert output.dtype == dtype
    exact = pool(image.double()).detach()
    assert ((output.double() - exact).abs() <= exact.abs() * torch.finfo(dtype).eps * 0.51).all()
    output.sum().backward()
    assert image.grad.dtype == dtype


def test_memory_follows_the_result_and_not_the_window(largest_storage):
    """What autograd keeps for the backward pass, and the largest tensor made on the way."""

    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    for reduce, most in (("mean", 0), ("sum", 0), ("max", 2)):  # a place is an int64
        pool = LogPolarPool2d(31, radial_bins=1, angular_bins=4, reduce=reduce, arrangement="bins")
        kept.clear()
        image = torch.randn(1, 2, 40, 40, requires_grad=True)
        padded = 2 * 70 * 70 * image.element_size()
        with largest_storage() as seen, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = pool(image)
            output.sum().backward()
        assert seen.bytes <= 2 * output.nbytes
        assert sum(kept.values()) <= most * output.nbytes + padded


def test_an_unbatched_map_and_one_pixel():
    pool = LogPolarPool2d(5, growth_rate=2.0)
    image = torch.randn(3, 6, 4)
    assert torch.equal(pool(image), pool(image[None])[0])
    assert pool(torch.ones(1, 1, 1, 1)).shape == (1, 1, 4, 3)
    assert (pool(torch.ones(1, 1, 1, 1)) == 0).all()
    assert pool(torch.ones(0, 2, 4, 4)).shape == (0, 2, 16, 12)


def test_nothing_to_learn_copies_and_meta():
    pool = LogPolarPool2d(5, reduce="max")
    assert not pool.state_dict()
    image = torch.randn(1, 2, 6, 6)
    for other in (
        copy.deepcopy(pool),
        pickle.loads(pickle.dumps(pool)),
        pool.half(),
        pool.to("meta").to_empty(device="cpu"),
    ):
        assert torch.equal(other.bins, log_polar_bins(5, 2, 6, 2.0, center="none"))
        assert torch.equal(other(image), LogPolarPool2d(5, reduce="max")(image))
    for reduce in REDUCES:
        assert LogPolarPool2d(5, reduce=reduce)(image.to("meta")).shape == (1, 2, 24, 18)


def test_compiles_whole():
    for reduce in REDUCES:
        pool = LogPolarPool2d(5, reduce=reduce)
        image = torch.randn(1, 2, 6, 6, requires_grad=True)
        torch._dynamo.reset()
        compiled = torch.compile(pool, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(image), pool(image))
        found = torch.autograd.grad(compiled(image).sin().sum(), image)[0]
        torch.testing.assert_close(found, torch.autograd.grad(pool(image).sin().sum(), image)[0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kernel_size": 4}, "kernel_size must be a positive odd number"),
        ({"kernel_size": (5,)}, "kernel_size must be a whole number of at least 1 or a pair of them"),
        ({"angular_bins": (4, 3)}, "angular_bins must be a whole number of at least 1"),
        ({"reduce": "median"}, "reduce must be one of 'mean', 'sum', 'max'; got 'median'"),
        ({"arrangement": "flat"}, "arrangement must be one of 'grid', 'bins'; got 'flat'"),
        ({"angular_bins": 5}, "angular_bins must be even"),
        ({"center": "own"}, "center='own' has no place in the paper's grid"),
        ({"center": "middle"}, "center must be one of"),
        ({"padding": "same", "stride": 2}, "padding='same' needs stride 1"),
        ({"padding_mode": "mirror"}, "padding_mode must be one of"),
    ],
)
def test_bad_arguments(change, words):
    with pytest.raises(ValueError, match=words):
        LogPolarPool2d(**{"kernel_size": 5, **change})


def test_wrong_input_is_named():
    pool = LogPolarPool2d(5, padding=0)
    for bad in (torch.zeros(8, 8), torch.zeros(1, 1, 3, 8, 8), torch.zeros(1, 0, 8, 8), torch.zeros(1, 1, 8, 8).long()):
        with pytest.raises(ValueError, match="input must be"):
            pool(bad)
    with pytest.raises(ValueError, match="the window, 5 pixels, must fit the padded input, 4"):
        pool(torch.zeros(1, 1, 8, 4))


def test_repr_says_how_to_build_it():
    text = repr(LogPolarPool2d(9, 2, reduce="max", growth_rate=3.0))
    assert text.startswith("LogPolarPool2d(kernel_size=(9, 9), stride=(2, 2), padding=(4, 4), radial_bins=2")
    assert text.endswith(
        "growth_rate=3.0, rotation=0.0, support='disk', center='none', reduce='max', arrangement='grid')"
    )
