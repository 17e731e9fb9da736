"""Log-polar layers against the paper's pooling form, and everything that a drop-in layer must survive."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from foveal import CrossConv2d, LogPolarConv2d
from foveal.geometry import bin_population, log_polar_bins


def pooling_form(input, layer, also_in=None):
    """Section 3.2: average the pixels of each bin around each position (zeros of the padding count), then weigh them.

    ``also_in``: the bin that the centre pixel is a member of, besides its own.
    """
    kh, kw = layer.kernel_size
    padded = F.pad(input, (kw // 2, kw // 2, kh // 2, kh // 2))
    rows, cols = input.shape[2:]
    bins = layer.bins
    columns = layer.weight.shape[2]
    at_centre = torch.zeros_like(bins)
    at_centre[kh // 2, kw // 2] = 1
    pooled = input.new_zeros(input.shape[0], input.shape[1], columns, rows, cols)
    for i in range(rows):
        for j in range(cols):
            window = padded[:, :, i : i + kh, j : j + kw]
            for b in range(columns):
                inside = window[:, :, (bins == b) | ((at_centre == 1) & (b == also_in))]
                if inside.shape[2]:
                    pooled[:, :, b, i, j] = getattr(torch, {"max": "amax"}.get(layer.reduce, layer.reduce))(inside, 2)
    output = torch.einsum("ncbij,ocb->noij", pooled, layer.weight)
    return output if layer.bias is None else output + layer.bias[:, None, None]


@settings(max_examples=25)
@given(
    st.sampled_from([3, 5, 7]),
    st.integers(1, 3),
    st.integers(1, 8),
    st.floats(1.2, 4),
    st.sampled_from(["disk", "square"]),
    st.sampled_from(["mean", "sum", "max"]),
    st.sampled_from(["own", "bin", "none", "own and counted"]),
)
def test_equals_the_papers_pooling_form(side, radial, angular, growth, support, reduce, center):
    counted = center == "own and counted"
    layer = LogPolarConv2d(
        2, 3, side, radial_bins=radial, angular_bins=angular, growth_rate=growth, support=support, reduce=reduce,
        center=center[:3] if counted else center, count_center=counted, rotation=1.0, dtype=torch.float64,
    )  # fmt: skip
    input = torch.randn(1, 2, 6, 5, dtype=torch.float64)
    also_in = 1 + int(angular / (2 * torch.pi)) if counted else None  # level 1, the sector of one radian
    torch.testing.assert_close(layer(input), pooling_form(input, layer, also_in))
    if reduce != "max":
        torch.testing.assert_close(layer.to_conv()(input), layer(input))
        kernel = torch.randn(3, 2, side, side, dtype=torch.float64)
        layer.project(kernel)
        best = layer.kernel().detach()
        worse = (layer.weight.detach() + 0.1 * torch.randn_like(layer.weight)).requires_grad_()
        layer.weight.data.copy_(worse)
        assert (best - kernel).norm() <= (layer.kernel() - kernel).norm()


def test_counting_the_centre_needs_a_centre_of_its_own():
    with pytest.raises(ValueError, match=r"count_center=True counts the centre tap .* got center='bin'"):
        LogPolarConv2d(1, 1, 3, center="bin", count_center=True)
    with pytest.raises(ValueError, match=r"rotated\(\) needs count_center=False"):
        LogPolarConv2d(1, 1, 5, count_center=True).rotated(1)


@pytest.mark.parametrize(
    "change", [{"stride": 2, "groups": 2}, {"dilation": 2}, {"padding_mode": "circular"}, {"padding": 0}]
)
def test_maximum_with_a_convolutions_arguments(change):
    """A bin of one tap has its pixel for maximum: with one bin a tap the layer is a sum over bins again."""
    bins = torch.arange(9).reshape(3, 3)
    layer = LogPolarConv2d(2, 4, 3, bins=bins, reduce="max", **change)
    plain = LogPolarConv2d(2, 4, 3, bins=bins, reduce="sum", **change)
    plain.load_state_dict(layer.state_dict())
    input = torch.randn(2, 2, 7, 8)
    torch.testing.assert_close(layer(input), plain(input))
    torch.testing.assert_close(layer(input[0]), plain(input[0]))


def test_maximum_is_no_convolution_and_says_so():
    layer = LogPolarConv2d(2, 4, 5, reduce="max")
    old = nn.Conv2d(2, 4, 5, padding=2)
    for call in (layer.to_conv, layer.kernel, lambda: layer.project(old.weight)):
        with pytest.raises(ValueError, match="a maximum over a bin is none; build it with reduce='mean' or 'sum'"):
            call()
    with pytest.raises(ValueError, match="init='project' needs a linear layer"):
        LogPolarConv2d.from_conv(old, init="project", kernel_size=5, reduce="max")
    with pytest.raises(ValueError, match="besides its own weight; build the layer with count_center=True"):
        layer.load_authors_state_dict({})
    torch.testing.assert_close(LogPolarConv2d.from_conv(old, kernel_size=5, reduce="max").bias, old.bias)


def test_maximum_trains_in_every_dtype():
    input = torch.randn(1, 2, 6, 6)
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        layer = LogPolarConv2d(2, 4, 5, reduce="max", dtype=dtype)
        output = layer(input.to(dtype))
        assert output.dtype == dtype
        output.sum().backward()
        assert layer.weight.grad.isfinite().all()
    layer = LogPolarConv2d(2, 4, 5, reduce="max")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(input).dtype == torch.bfloat16


def test_weights_of_the_paper():
    for radial, angular, count in [(2, 6, 13), (3, 8, 25), (2, 8, 17)]:
        for side in (5, 9, 19):
            assert LogPolarConv2d(1, 1, side, radial_bins=radial, angular_bins=angular).weight.shape == (1, 1, count)


def test_constant_image():
    """Every bin pools to the constant in the interior, so the output is the sum of the weights of the bins with taps."""
    layer = LogPolarConv2d(1, 2, 7, radial_bins=2, angular_bins=8, bias=False)
    there = bin_population(layer.bins, 17) > 0
    output = layer(torch.full((1, 1, 13, 13), 3.0))
    expected = 3 * layer.weight[:, 0, there].sum(1)
    torch.testing.assert_close(output[0, :, 6, 6], expected)


@pytest.mark.parametrize(("count_center", "weights"), [(True, [10.0, 2, 1, 3, 4]), (False, [32 / 3, 4 / 3, 1, 3, 4])])
def test_hand_example_of_the_authors_layer(count_center, weights):
    layer = LogPolarConv2d(
        1, 1, 3, radial_bins=1, angular_bins=4, growth_rate=4.0, support="square", count_center=count_center
    )
    state = {
        "region.weight": torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]),
        "region.bias": torch.tensor([0.2]),
        "center.weight": torch.tensor([[[[10.0]]]]),
        "center.bias": torch.tensor([0.3]),
    }
    layer.load_authors_state_dict(state)
    torch.testing.assert_close(layer.weight[0, 0], torch.tensor(weights))  # as theirs where the centre counts
    expected = [[0.5, 0.5, 2 / 3], [1.5, 10 + 2 / 3, 2 / 3], [1.5, 2, 2]]
    torch.testing.assert_close(layer.kernel()[0, 0], torch.tensor(expected))
    output = layer(torch.arange(9.0).reshape(1, 1, 3, 3))[0, 0]
    rows = [[15.1667, 35, 39.3333], [61.8333, 91.8333, 87.8333], [73.3333, 96.3333, 100.8333]]
    torch.testing.assert_close(output, torch.tensor(rows), rtol=1e-5, atol=1e-4)


def authors_layer(input, state, kernel_size, radial, angular, growth, pool=torch.mean):
    """Their algorithm in short: mean (or maximum) of each region (centre pixel included), laid out 2 L_r x L_theta / 2, two convolutions."""
    bins = log_polar_bins(kernel_size, radial, angular, growth**2, support="square", center="bin")
    half = kernel_size // 2
    windows = F.unfold(input, kernel_size, padding=half).unflatten(1, (input.shape[1], -1))
    pooled = input.new_zeros(*input.shape[:2], 2 * radial, angular // 2, windows.shape[-1])
    for b in range(radial * angular):
        level, sector = divmod(b, angular)
        if sector < angular // 2:
            row, col = radial - 1 - level, angular // 2 - 1 - sector
        else:
            row, col = radial + level, sector - angular // 2
        member = (bins == b).flatten()
        if member.any():
            pooled[:, :, row, col] = pool(windows[:, :, member], 2)
    output = torch.einsum("nchwp,ochw->nop", pooled, state["a.conv.weight"]).unflatten(2, input.shape[2:])
    output = output + F.conv2d(input, state["a.center.weight"], state["a.center.bias"])
    return output + state["a.conv.bias"][:, None, None]


@pytest.mark.parametrize(
    ("side", "radial", "angular", "growth"), [(5, 2, 6, 3.0), (9, 2, 6, 3.0), (11, 3, 8, 2.0), (3, 2, 8, 2.0)]
)
@pytest.mark.parametrize(
    ("reduce", "count_center"), [("mean", False), ("mean", True), ("sum", False), ("sum", True), ("max", True)]
)
def test_authors_checkpoint_gives_their_outputs(side, radial, angular, growth, reduce, count_center):
    shapes = {
        "conv.weight": (4, 3, 2 * radial, angular // 2),
        "conv.bias": (4,),
        "center.weight": (4, 3, 1, 1),
        "center.bias": (4,),
    }
    state = {f"a.{key}": torch.randn(shape, dtype=torch.float64) for key, shape in shapes.items()}
    layer = LogPolarConv2d(
        3, 4, side, radial_bins=radial, angular_bins=angular, growth_rate=growth**2, support="square", reduce=reduce,
        count_center=count_center, dtype=torch.float64,
    )  # fmt: skip
    layer.load_authors_state_dict({**state, "b.conv.weight": torch.zeros(4, 3, 2 * radial, angular // 2)}, prefix="a.")
    input = torch.randn(2, 3, 8, 7, dtype=torch.float64)
    pool = torch.amax if reduce == "max" else torch.mean
    torch.testing.assert_close(layer(input), authors_layer(input, state, side, radial, angular, growth, pool))


def test_authors_checkpoint_without_centre():
    state = {"weight": torch.randn(2, 1, 4, 3)}
    layer = LogPolarConv2d(1, 2, 5, growth_rate=9.0, support="square", center="bin", bias=False)
    layer.load_authors_state_dict(state)
    assert torch.equal(layer.weight[:, :, 0], state["weight"][:, :, 1, 2])


def test_authors_checkpoint_that_does_not_fit_changes_nothing():
    good = {"region.weight": torch.ones(2, 1, 4, 3), "center.weight": torch.ones(2, 1, 1, 1)}

    def layer(**change):
        return LogPolarConv2d(1, 2, 5, **{"growth_rate": 9.0, "support": "square", "bias": False, **change})

    for made, state, words in [
        (layer(support="disk"), good, "support='square'"),
        (layer(center="none"), good, "center='own' or 'bin'"),
        (layer(radial_bins=3), good, "no region convolution"),
        (layer(), {}, "no key"),
        (layer(), {**good, "center.bias": torch.zeros(2)}, "bias=True"),
        (layer(center="bin"), good, "center='own'"),
        (layer(), {**good, "other.weight": torch.ones(2, 1, 4, 3)}, "several region convolutions"),
    ]:
        before = made.weight.clone()
        with pytest.raises(ValueError, match=words):
            made.load_authors_state_dict(state)
        assert torch.equal(made.weight, before)


MAKES = {
    "plain": lambda: LogPolarConv2d(2, 4, 9, growth_rate=3.0),
    "ellipse": lambda: LogPolarConv2d(2, 4, (5, 9), rotation=0.4, aspect_ratio=0.7, stride=2, groups=2),
    "reflect": lambda: LogPolarConv2d(2, 4, 5, dilation=2, padding_mode="reflect", bias=False),
    "circular": lambda: LogPolarConv2d(2, 4, 5, padding=1, padding_mode="circular", reduce="sum"),
    "own map": lambda: LogPolarConv2d(2, 4, (2, 3), padding="same", bins=torch.tensor([[0, 1, -1], [2, 2, 0]])),
    "same": lambda: LogPolarConv2d(2, 4, 5, padding="same", dilation=2),
    "max": lambda: LogPolarConv2d(2, 4, 5, reduce="max"),
    "cross": lambda: CrossConv2d(2, 4, 3, field=7),
    "cross, strided": lambda: CrossConv2d(2, 8, 5, stride=2, dilation=2, field=3, groups=2, share=0.25 * 2),
    "cross, replicate": lambda: CrossConv2d(2, 6, 3, field=5, padding_mode="replicate", share=1 / 3, bias=False),
}


@pytest.fixture(params=MAKES, ids=str)
def layer(request):
    return MAKES[request.param]()


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_to_conv_is_the_same_function_of_the_same_kind(layer):
    if layer.not_a_conv():
        with pytest.raises(ValueError, match="linear"):
            layer.to_conv()
        return
    layer.eval().requires_grad_(False)
    conv = layer.to_conv()
    assert type(conv) is nn.Conv2d
    assert not conv.training
    assert not conv.weight.requires_grad
    input = torch.randn(2, 2, 13, 12)
    torch.testing.assert_close(conv(input), layer(input), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_state_dict_copy_and_pickle(layer):
    kept = set(layer.state_dict())
    assert all(key.endswith(("weight", "bias")) for key in kept)
    input = torch.randn(1, 2, 12, 12)
    expected = layer(input)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(input), expected)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    layer.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(layer(input), expected)


def test_maps_survive_meta_casts_and_moves():
    with torch.device("meta"):
        layer = LogPolarConv2d(2, 4, 9, growth_rate=3.0)
    assert layer.bins.device.type == "meta"
    layer = layer.to_empty(device="cpu")
    whole = LogPolarConv2d(2, 4, 9, growth_rate=3.0)
    assert torch.equal(layer.bins, whole.bins)
    layer.load_state_dict(whole.state_dict())
    input = torch.randn(1, 2, 8, 8)
    assert torch.equal(layer(input), whole(input))
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        layer.to(dtype)
        assert layer.bins.dtype == torch.int64
        assert layer(input.to(dtype)).dtype == dtype


def test_counts_are_not_rounded_in_bfloat16():
    """708 and its like are no bfloat16 numbers; the kernel must err by the rounding of weight and result alone."""
    layer = LogPolarConv2d(1, 1, 31, radial_bins=1, angular_bins=1, growth_rate=2.0)
    exact = layer.weight.detach().bfloat16().double()[0, 0, 1] / 708
    assert int(layer.population[1]) == 708
    kernel = layer.bfloat16().kernel()[0, 0].detach().double()
    assert abs(float(kernel[0, 15]) / float(exact) - 1) <= 2**-8


@pytest.mark.parametrize("kind", [LogPolarConv2d, CrossConv2d])
@pytest.mark.parametrize(
    "conv",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "padding": 0},
        {"kernel_size": 7, "stride": 2, "padding": 3, "bias": False},
        {"kernel_size": (3, 5), "padding": "valid"},
        {"kernel_size": 5, "padding": "same", "padding_mode": "circular"},
        {"kernel_size": 3, "dilation": 3, "padding": 3, "groups": 2},
        {"kernel_size": 1, "stride": 2},
    ],
    ids=str,
)
def test_from_conv_keeps_what_it_stands_for(kind, conv):
    old = nn.Conv2d(4, 8, **conv, dtype=torch.float64).eval()
    old.weight.requires_grad_(False)
    new = kind.from_conv(old, **({"kernel_size": 9} if kind is LogPolarConv2d else {"field": 9}))
    input = torch.randn(2, 4, 15, 17, dtype=torch.float64)
    assert new(input).shape == old(input).shape
    assert not new.training
    assert not any(p.requires_grad for name, p in new.named_parameters() if name.endswith("weight"))
    parts = [new] if kind is LogPolarConv2d else [new.conv, new.log_polar]
    if old.bias is None:
        assert all(part.bias is None for part in parts)
    else:
        assert torch.equal(torch.cat([part.bias for part in parts]), old.bias)


def test_projection_is_least_squares():
    old = nn.Conv2d(3, 4, 5, padding=2)
    for reduce in ("mean", "sum"):
        new = LogPolarConv2d.from_conv(old, init="project", kernel_size=5, reduce=reduce, support="square")
        basis = F.one_hot(new.bins.flatten(), 13).float()
        best = torch.linalg.lstsq(basis[:, basis.any(0)], old.weight.detach().flatten(2).flatten(0, 1).T).solution
        torch.testing.assert_close(
            basis[:, basis.any(0)] @ best, new.kernel().flatten(2).flatten(0, 1).T, rtol=1e-4, atol=1e-5
        )


def test_projection_of_a_kernel_that_the_map_can_hold_is_exact():
    fine = LogPolarConv2d(2, 3, 3, radial_bins=1, angular_bins=8)  # one bin a tap
    old = nn.Conv2d(2, 3, 3, padding=1)
    new = LogPolarConv2d.from_conv(old, init="project", radial_bins=1, angular_bins=8)
    assert fine.weight.shape == new.weight.shape
    input = torch.randn(1, 2, 6, 6)
    torch.testing.assert_close(new(input), old(input))
    wider = LogPolarConv2d.from_conv(old, init="project", kernel_size=9, radial_bins=2, angular_bins=8, growth_rate=8.0)
    torch.testing.assert_close(wider.kernel()[:, :, 3:6, 3:6], old.weight)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kernel_size": 4}, "kernel_size must be a positive odd number or a pair of them, .* got 4"),
        ({"kernel_size": 0}, "kernel_size must be a positive odd number or a pair of them, .* got 0"),
        ({"kernel_size": (5,)}, r"kernel_size must be a whole number of at least 1 or a pair of them; got \(5,\)"),
        ({"angular_bins": (4, 3)}, r"angular_bins must be a whole number of at least 1; got \(4, 3\)"),
        ({"in_channels": 0}, "in_channels must be a whole number of at least 1"),
        ({"out_channels": 2.0}, "out_channels"),
        ({"groups": 3}, "in_channels must be a multiple of groups, 3; got 4"),
        ({"padding_mode": "mirror"}, "padding_mode must be one of"),
        ({"reduce": "median"}, "reduce must be one of 'mean', 'sum', 'max'; got 'median'"),
        ({"growth_rate": 0.5}, "growth_rate must be a finite number above 1"),
        ({"radial_bins": 0}, "radial_bins"),
        ({"bins": torch.zeros(3, 3)}, "bins must be an int64 tensor of kernel_size"),
        ({"bins": torch.zeros(3, 3, dtype=torch.int64)}, r"kernel_size \(5, 5\)"),
        ({"bins": torch.full((5, 5), -1)}, "at least one column"),
        ({"stride": -1}, "stride"),
        ({"padding": "same", "stride": 2}, "padding='same' needs stride 1"),
    ],
)
def test_bad_arguments(change, words):
    with pytest.raises(ValueError, match=words):
        LogPolarConv2d(**{"in_channels": 4, "out_channels": 8, "kernel_size": 5, **change})


def test_wrong_input_is_named():
    layer = LogPolarConv2d(3, 4, 5)
    for bad in (torch.zeros(1, 4, 8, 8), torch.zeros(8, 8), torch.zeros(1, 1, 3, 8, 8)):
        with pytest.raises(ValueError, match="input must have"):
            layer(bad)


def test_repr_says_how_to_build_it():
    text = repr(LogPolarConv2d(3, 4, 9, stride=2, growth_rate=3.0, aspect_ratio=0.5, bias=False))
    assert text.startswith("LogPolarConv2d(3, 4, kernel_size=(9, 9), stride=(2, 2), padding=(4, 4), bias=False")
    assert "growth_rate=3.0" in text
    assert "aspect_ratio=0.5" in text
