"""The anisotropic layer against its formula, its bounds, and everything that a drop-in layer must survive."""

import copy
import math
import pickle
import shutil

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from foveal import AnisotropicConv2d, AnisotropicConv3d, LogPolarConv2d
from foveal.analysis import cost
from foveal.ops import anisotropic_conv2d, anisotropic_conv3d


def shake(layer, size=1.0):
    """Give the predictors something to say; they start at zero."""
    with torch.no_grad():
        for predictor in (layer.offset_conv, layer.scale_conv):
            for parameter in () if predictor is None else predictor.parameters():
                parameter.normal_(0, size)
    return layer


def test_starts_as_the_maximum_of_dilated_convolutions():
    layer = AnisotropicConv2d(4, 6, 3, scales=(1, 2, 4))
    input = torch.randn(2, 4, 9, 8)
    branches = [F.conv2d(input, layer.weight, layer.bias, padding=s, dilation=s) for s in (1, 2, 4)]
    torch.testing.assert_close(layer(input), torch.stack(branches).amax(0))


def test_is_the_functional_form_of_its_offsets():
    input = torch.randn(2, 4, 9, 8)
    for fuse in ("max", "sum"):
        layer = shake(AnisotropicConv2d(4, 6, 3, scales=(1, 2, 3.5), offset_bound="half", fuse=fuse, stride=2))
        expected = anisotropic_conv2d(
            input, layer.weight, layer.offsets(input), layer.bias, scales=(1, 2, 3.5), stride=2, fuse=fuse
        )
        torch.testing.assert_close(layer(input), expected)
    layer = shake(AnisotropicConv2d(4, 6, 3, fuse="concat", share_weights=False))
    stacked = anisotropic_conv2d(input, layer.weight, layer.offsets(input), scales=(1, 2), fuse="concat")
    torch.testing.assert_close(layer(input), layer.projection(stacked))
    assert layer.bias is None
    assert layer.projection.bias is not None


@pytest.mark.parametrize(
    ("scales", "bound", "expected"),
    [
        ((1, 2, 4), "floor", [0, 1, 2]),
        ((1, 2, 3), "half", [0.5, 1, 1.5]),
        ((1, 2), 0.75, [0.75, 0.75]),
        ((1, 2), None, [None, None]),
        ((1, 2.5), "floor", [0, 1]),
        ((1, 2, 4), (0, None, "half"), [0, None, 2]),
    ],
)
def test_bounds_and_their_parameters(scales, bound, expected):
    layer = AnisotropicConv2d(4, 6, 3, scales=scales, offset_bound=bound)
    assert list(layer.bounds) == expected
    moving = sum(b != 0 for b in expected)
    assert sum(p.numel() for p in layer.offset_conv.parameters()) == moving * (162 * 4 + 18)
    offsets = layer.offsets(torch.randn(1, 4, 5, 5))
    assert [o is None for o in offsets] == [b == 0 for b in expected]


def test_costs_of_the_paper():
    """3x3, C -> C': + |L| (162 C + 18) with shared weights, + (|L| - 1) 9 C C' with one for each scale."""
    base = 9 * 64 * 128 + 128
    for scales in ((1, 2), (1, 2, 4)):
        shared, own = (
            AnisotropicConv2d(64, 128, 3, scales=scales, offset_bound="half", share_weights=share)
            for share in (True, False)
        )
        count = len(scales)
        assert sum(p.numel() for p in shared.parameters()) == base + count * 10386
        assert sum(p.numel() for p in own.parameters()) == base + count * 10386 + (count - 1) * 9 * 64 * 128
    assert AnisotropicConv2d(4, 4, 3, scales=(1, 4), offset=False).offset_conv is None


@settings(max_examples=60)
@given(st.floats(0, 1e6), st.sampled_from([(1, 2), (3,), (1.5, 7.3)]), st.sampled_from(["floor", "half", 0.3, 1.3]))
def test_offsets_stay_strictly_below_their_bound(size, scales, bound):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        layer = shake(AnisotropicConv2d(2, 2, 3, scales=scales, offset_bound=bound, dtype=dtype), size)
        for offset, limit in zip(layer.offsets(torch.randn(1, 2, 4, 4).to(dtype)), layer.bounds, strict=True):
            if offset is not None:
                assert offset.dtype in (torch.float32, torch.float64)
                assert float(offset.detach().abs().max()) < limit


def test_unbounded_offsets_are_what_the_predictor_says():
    layer = shake(AnisotropicConv2d(2, 2, 3, scales=(1,), offset_bound=None), 5.0)
    input = torch.randn(1, 2, 4, 4)
    torch.testing.assert_close(layer.offsets(input)[0], layer.offset_conv(input))


CONVS = [
    {},
    {"stride": 2, "padding": 0},
    {"kernel_size": 5, "dilation": 2},
    {"kernel_size": 1},
    {"kernel_size": 7, "padding": 0, "stride": 3},
    {"kernel_size": 4, "padding": "same"},
    {"kernel_size": 2, "padding": 0, "stride": 2},
    {"kernel_size": (3, 5), "padding": "valid", "groups": 2},
    {"padding_mode": "reflect"},
    {"padding_mode": "circular", "dilation": 2, "padding": 3},
    {"padding_mode": "replicate", "padding": "same", "kernel_size": 5},
]


@pytest.mark.parametrize("arguments", CONVS, ids=str)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_output_size_offsets_and_points_fit_conv2d(arguments):
    arguments = {"kernel_size": 3, "padding": 1, **arguments}
    if arguments["kernel_size"] == 5 and arguments.get("dilation") == 2:
        arguments["padding"] = 4
    conv = nn.Conv2d(4, 6, **arguments)
    layer = AnisotropicConv2d(4, 6, **arguments, scales=(1, 2), offset_bound="half")
    input = torch.randn(2, 4, 13, 12)
    output = layer(input)
    assert output.shape == conv(input).shape
    taps = layer.kernel_size[0] * layer.kernel_size[1]
    assert layer.sampling_points(input).shape == (2, 2, *output.shape[2:], taps, 2)
    assert layer.winning_scale(input).shape == output.shape
    # scale 1 alone, offsets zero as they start: the convolution itself, whatever its padding
    alone = AnisotropicConv2d(4, 6, **arguments, scales=(1,), offset_bound="half")
    with torch.no_grad():
        alone.weight.copy_(conv.weight)
        alone.bias.copy_(conv.bias)
    torch.testing.assert_close(alone(input), conv(input))


def test_sampling_points_are_where_it_reads():
    """On the image whose pixels are their row (or column), a point reads its own coordinate."""
    layer = shake(AnisotropicConv2d(2, 1, 3, scales=(2,), offset_bound="half", stride=2, padding=1), 0.3)
    rows, cols = torch.meshgrid(torch.arange(16.0), torch.arange(14.0), indexing="ij")
    input = torch.stack([rows, cols])[None]
    points = layer.sampling_points(input)
    inside = ((points[..., 0] >= 0) & (points[..., 0] <= 15) & (points[..., 1] >= 0) & (points[..., 1] <= 13)).all(-1)[
        0, 0
    ]
    for axis in (0, 1):
        with torch.no_grad():
            layer.weight.zero_()
            layer.weight[0, axis] = 1
            layer.bias.zero_()
        torch.testing.assert_close(
            layer(input)[0, 0][inside], points[0, 0, ..., axis].sum(-1)[inside], rtol=1e-5, atol=1e-4
        )
    assert int(inside.sum()) >= 20


def test_winning_scale_names_the_branch():
    layer = shake(AnisotropicConv2d(3, 5, 3, scales=(1, 2, 4), share_weights=False))
    input = torch.randn(1, 3, 9, 9)
    stacked = anisotropic_conv2d(input, layer.weight, layer.offsets(input), scales=(1, 2, 4), fuse="concat")
    assert torch.equal(layer.winning_scale(input).long(), torch.stack(stacked.chunk(3, 1)).argmax(0))
    assert (AnisotropicConv2d(3, 5, scales=(2,)).winning_scale(input) == 0).all()


@pytest.mark.parametrize(
    "arguments",
    [
        {"scales": (1,)},
        {"scales": (3,), "stride": 2, "padding": 1},
        {"scales": (2,), "dilation": 2, "groups": 2, "bias": False},
        {"scales": (2,), "padding_mode": "circular", "stride": 2},
        {"scales": (2.0,), "kernel_size": 5, "share_weights": False},
        {"scales": (1,), "kernel_size": 4, "padding": "same"},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_to_conv(arguments):
    layer = AnisotropicConv2d(4, 6, **{"kernel_size": 3, "offset": False, **arguments}).eval()
    conv = layer.to_conv()
    assert type(conv) is nn.Conv2d
    assert not conv.training
    input = torch.randn(2, 4, 12, 13)
    torch.testing.assert_close(conv(input), layer(input), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "several scales"),
        ({"scales": "learned"}, "several scales"),
        ({"scales": (2,)}, "offsets"),
        ({"scales": (1.5,), "offset": False}, "scale 1.5"),
        ({"scales": (2,), "offset": False, "kernel_size": 4, "padding": 1}, "scale 2 does not put its taps on pixels"),
        ({"scales": (1,), "offset": False, "fuse": "concat"}, "projection"),
    ],
)
def test_to_conv_refuses_what_is_no_convolution(arguments, words):
    with pytest.raises(ValueError, match=words):
        AnisotropicConv2d(4, 6, **{"kernel_size": 3, **arguments}).to_conv()


def test_from_conv():
    old = nn.Conv2d(
        4, 6, 3, stride=2, padding=2, dilation=2, groups=2, padding_mode="reflect", dtype=torch.float64
    ).eval()
    old.weight.requires_grad_(False)
    new = AnisotropicConv2d.from_conv(old, init="project", scales=(1,), offset=False)
    input = torch.randn(1, 4, 12, 11, dtype=torch.float64)
    torch.testing.assert_close(new(input), old(input))
    assert not new.training
    assert not new.weight.requires_grad
    assert new.bias.requires_grad
    for spec in ({}, {"fuse": "concat"}, {"kernel_size": 5, "scales": (1, 1.5)}, {"scales": "learned"}):
        assert AnisotropicConv2d.from_conv(old, **spec)(input).shape == old(input).shape
    with pytest.raises(ValueError, match="init='project' keeps the kernel"):
        AnisotropicConv2d.from_conv(old, init="project", kernel_size=5)


def test_learned_scale_is_equation_2():
    layer = shake(AnisotropicConv2d(2, 3, 3, scales="learned", dilation=1), 0.2)
    input = torch.randn(1, 2, 7, 7)
    scale = layer.scale(input)
    assert float(scale.detach().min()) >= 1
    grid = torch.tensor([[i, j] for i in (-1.0, 0, 1) for j in (-1.0, 0, 1)])
    delta = torch.tanh(layer.offset_conv(input)) * scale / 2 * (1 - 2**-20)
    total = (scale - 1) * grid.reshape(-1, 1, 1) + delta
    torch.testing.assert_close(layer.offsets(input)[0], total)
    expected = anisotropic_conv2d(input, layer.weight, total, layer.bias)
    torch.testing.assert_close(layer(input), expected)
    inside = total.detach() - ((scale - 1) * grid.reshape(-1, 1, 1)).detach()
    assert bool((inside.abs() < scale.detach() / 2).all())


def test_a_learned_scale_with_the_bound_of_equation_3():
    """|offset| below floor(l0 / 2): nothing moves where the scale is below 2, as at the start."""
    layer = AnisotropicConv2d(2, 3, 3, scales="learned", offset_bound="floor")
    input = torch.randn(1, 2, 9, 9)
    grid = torch.tensor([[i, j] for i in (-1.0, 0, 1) for j in (-1.0, 0, 1)]).reshape(-1, 1, 1)
    torch.nn.init.normal_(layer.offset_conv.weight, std=9.0)
    torch.testing.assert_close(layer.offsets(input)[0], (layer.scale(input) - 1) * grid)
    torch.nn.init.normal_(layer.scale_conv.weight, std=2.0)
    scale = layer.scale(input).detach()
    inside = (layer.offsets(input)[0] - (layer.scale(input) - 1) * grid).detach()
    limit = (scale / 2).floor()
    assert len(limit.unique()) > 3
    assert bool((inside[0].abs() <= limit[0] * (1 - 2**-22) + 1e-4 * (scale[0] > 2)).all())
    torch.testing.assert_close(
        inside.abs().amax(1, keepdim=True), limit, atol=0.1, rtol=0.1
    )  # wide predictions reach it
    assert "offset_bound='floor'" in repr(layer)
    assert AnisotropicConv2d(2, 3, 3, scales="learned").bounds == ("half",)
    assert AnisotropicConv2d(2, 3, 3, scales=(1, 2)).bounds == (0, 1)


@pytest.mark.parametrize(
    ("phase", "trained"), [("both", {"scale", "offset"}), ("scale", {"scale"}), ("offset", {"offset"})]
)
def test_phases_train_one_after_the_other(phase, trained):
    layer = shake(AnisotropicConv2d(2, 3, 3, scales="learned"), 0.2)
    layer.phase = phase
    layer(torch.randn(1, 2, 7, 7)).square().sum().backward()
    assert layer.weight.grad is not None
    assert (layer.scale_conv.weight.grad is not None) == ("scale" in trained)
    assert (layer.offset_conv.weight.grad is not None) == ("offset" in trained)


def test_a_wrong_phase_is_an_error():
    layer = AnisotropicConv2d(2, 3, 3, scales="learned")
    with pytest.raises(ValueError, match="phase must be one of"):
        layer.phase = "offsets"
    with pytest.raises(ValueError, match="only scales='learned' predicts a scale"):
        AnisotropicConv2d(2, 3).scale(torch.zeros(1, 2, 4, 4))


@pytest.mark.parametrize(
    "arguments", [{}, {"fuse": "concat"}, {"scales": "learned"}, {"padding_mode": "reflect"}], ids=str
)
def test_state_dict_copy_pickle_and_casts(arguments):
    layer = shake(AnisotropicConv2d(2, 4, **arguments))
    assert not any("taps" in key for key in layer.state_dict())
    input = torch.randn(1, 2, 8, 8)
    expected = layer(input)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(input), expected)
    taps = layer.taps.clone()
    half = copy.deepcopy(layer).half()
    assert half.taps.dtype == torch.float32
    assert torch.equal(half.taps, taps)
    assert half(input.half()).dtype == torch.float16
    with torch.device("meta"):
        empty = AnisotropicConv2d(2, 4, **arguments)
    empty = empty.to_empty(device="cpu")
    empty.load_state_dict(layer.state_dict())
    assert torch.equal(empty(input), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_training_step_under_autocast_and_in_half_types(dtype):
    layer = shake(AnisotropicConv2d(2, 4), 0.1)
    input = torch.randn(2, 2, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.float32):
        layer = layer.to(dtype)
        layer(input.to(dtype)).float().square().mean().backward()
    for parameter in layer.parameters():
        assert parameter.grad.dtype == dtype
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().sum() > 0


def test_nan_in_the_input_comes_out_and_does_not_crash():
    layer = shake(AnisotropicConv2d(2, 4))
    input = torch.randn(1, 2, 9, 9)
    input[0, 0, 4, 4] = math.nan
    output = layer(input)
    assert output[0, :, 4, 4].isnan().all()
    output.sum().backward()
    assert layer(torch.full((1, 2, 9, 9), math.inf)).shape == (1, 4, 9, 9)


@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")
def test_inductor_compiles_both_convolutions_whole():
    layer = nn.Sequential(shake(AnisotropicConv2d(2, 4)), nn.ReLU(), LogPolarConv2d(4, 3, 7))
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="inductor")
    input = torch.randn(2, 2, 9, 8, requires_grad=True)
    found, expected = compiled(input), layer(input)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    (mine,), (theirs,) = (torch.autograd.grad(output.square().sum(), input) for output in (found, expected))
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scales": ()}, "scales must be 1 to 255 different positive numbers"),
        ({"scales": (1, -2)}, "scales"),
        ({"scales": (2, 2)}, "different"),
        ({"scales": (1, math.inf)}, "scales"),
        ({"scales": "learnt"}, "scales must be one of 'learned'"),
        ({"offset_bound": "ceil"}, "offset_bound must be one of 'floor', 'half'; got 'ceil'"),
        ({"offset_bound": -1}, "offset_bound must be"),
        ({"offset_bound": (1, 2, 3)}, "one for each of the 2 scales"),
        ({"fuse": "mean"}, "fuse must be one of"),
        ({"kernel_size": 4}, "padding must be given"),
        ({"kernel_size": 0}, "kernel_size"),
        ({"in_channels": 3, "groups": 2}, "in_channels must be a multiple of groups"),
        ({"padding_mode": "wrap"}, "padding_mode"),
    ],
)
def test_bad_arguments(change, words):
    with pytest.raises(ValueError, match=words):
        AnisotropicConv2d(**{"in_channels": 4, "out_channels": 8, **change})


def test_wrong_input_is_named():
    layer = AnisotropicConv2d(3, 4)
    for bad in (torch.zeros(1, 4, 8, 8), torch.zeros(8, 8), torch.zeros(1, 1, 3, 8, 8)):
        with pytest.raises(ValueError, match="input must be"):
            layer(bad)


# What a third dimension changes; all else is the same code.


def test_volumes_start_as_the_maximum_of_dilated_convolutions():
    layer = AnisotropicConv3d(4, 6, 3, scales=(1, 2))
    input = torch.randn(2, 4, 5, 7, 6)
    branches = [F.conv3d(input, layer.weight, layer.bias, padding=s, dilation=s) for s in (1, 2)]
    torch.testing.assert_close(layer(input), torch.stack(branches).amax(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer(input)[0], layer(input[0]))


@pytest.mark.parametrize("fuse", ["max", "sum", "concat"])
@pytest.mark.parametrize("share", [True, False])
def test_in_volumes_it_is_the_functional_form_of_its_offsets(fuse, share):
    arguments = {"scales": (1, 2, 3.5), "offset_bound": "half", "fuse": fuse, "stride": 2, "share_weights": share}
    layer = shake(AnisotropicConv3d(4, 6, 3, **arguments), 0.3)
    input = torch.randn(2, 4, 5, 7, 6)
    offsets = layer.offsets(input)
    assert [tuple(o.shape) for o in offsets] == [(2, 81, 3, 4, 3)] * 3
    assert [float(o.detach().abs().max()) < bound for o, bound in zip(offsets, (0.5, 1, 1.75), strict=True)] == [
        True
    ] * 3
    expected = anisotropic_conv3d(input, layer.weight, offsets, layer.bias, scales=(1, 2, 3.5), stride=2, fuse=fuse)
    torch.testing.assert_close(layer(input), expected if fuse != "concat" else layer.projection(expected))
    assert layer.double().weight.ndim == 5 + (not share)


VOLUMES = [
    {},
    {"stride": 2, "padding": 0},
    {"kernel_size": (1, 3, 5), "padding": (0, 1, 2), "dilation": (1, 1, 2), "stride": (1, 2, 1)},
    {"kernel_size": 2, "padding": "same"},
    {"padding_mode": "reflect"},
    {"padding_mode": "circular", "groups": 2},
    {"padding_mode": "replicate", "padding": "same"},
]


@pytest.mark.parametrize("arguments", VOLUMES, ids=str)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_output_size_offsets_and_points_fit_conv3d(arguments):
    arguments = {"kernel_size": 3, "padding": 1, **arguments}
    if arguments["kernel_size"] == (1, 3, 5):
        arguments["padding"] = (0, 1, 4)
    conv = nn.Conv3d(4, 6, **arguments)
    layer = AnisotropicConv3d(4, 6, **arguments, scales=(1, 2), offset_bound="half")
    input = torch.randn(2, 4, 7, 8, 9)
    output = layer(input)
    assert output.shape == conv(input).shape
    assert layer.sampling_points(input).shape == (2, 2, *output.shape[2:], math.prod(layer.kernel_size), 3)
    assert layer.winning_scale(input).shape == output.shape
    # scale 1 alone, offsets zero as they start: the convolution itself, whatever its padding
    alone = AnisotropicConv3d.from_conv(conv, init="project", scales=(1,), offset_bound="half")
    torch.testing.assert_close(alone(input), conv(input), rtol=1e-4, atol=1e-5)
    fixed = AnisotropicConv3d.from_conv(conv, init="project", scales=(1,), offset=False)
    torch.testing.assert_close(fixed.to_conv()(input), conv(input), rtol=1e-4, atol=1e-5)


def test_points_in_volumes_are_where_it_reads():
    """In the volume whose voxels are their plane, row or column, a point reads its own coordinate."""
    layer = shake(AnisotropicConv3d(3, 1, 3, scales=(2,), offset_bound="half", stride=2, padding=1), 0.05)
    grid = torch.stack(torch.meshgrid(*[torch.arange(12.0)] * 3, indexing="ij"))[None]
    points = layer.sampling_points(grid / 10)
    inner = (0, 0, slice(2, 4), slice(2, 4), slice(2, 4))
    for axis in range(3):
        with torch.no_grad():
            layer.weight.zero_()
            layer.weight[0, axis] = torch.arange(27.0).reshape(3, 3, 3)
            layer.bias.zero_()
        expected = (points[inner][..., axis] / 10 * torch.arange(27.0)).sum(-1)
        torch.testing.assert_close(layer(grid / 10)[inner], expected, rtol=1e-4, atol=1e-3)


def test_a_scale_is_learned_in_volumes():
    layer = shake(AnisotropicConv3d(2, 3, 3, scales="learned"), 0.1)
    input = torch.randn(1, 2, 5, 6, 4)
    assert layer.scale(input).shape == (1, 1, 5, 6, 4)
    (total,) = layer.offsets(input)
    layer(input).sum().backward()
    assert layer.scale_conv.weight.grad.abs().sum() > 0
    assert total.shape == (1, 81, 5, 6, 4)


def test_costs_of_volumes():
    layer = AnisotropicConv3d(4, 6, 3, scales=(1, 2))  # the second scale has offsets
    found = cost(layer, (4, 5, 6, 7), latency=False)
    assert found.params == 27 * 4 * 6 + 6 + 81 * (27 * 4 + 1)
    assert found.conv_macs == 210 * (2 * 27 * 4 * 6 + 27 * 4 * 81)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_volumes_in_onnx(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    layer = shake(AnisotropicConv3d(4, 6, 3, offset_bound="half"), 0.2).eval()
    input = torch.randn(1, 4, 5, 6, 7)
    program = torch.onnx.export(nn.Sequential(layer).eval(), (input,), dynamo=True, opset_version=20, verbose=False)
    program.save(tmp_path / "layer.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "layer.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: input.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), layer(input).detach(), rtol=1e-3, atol=1e-4)


def test_volumes_keep_their_formats_and_survive_copies():
    layer = shake(AnisotropicConv3d(4, 6, 3, share_weights=False))
    input = torch.randn(2, 4, 5, 7, 6)
    expected = layer(input)
    again = pickle.loads(pickle.dumps(copy.deepcopy(layer))).to(memory_format=torch.channels_last_3d)
    found = again(input.contiguous(memory_format=torch.channels_last_3d))
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(found, expected)
    assert set(layer.state_dict()) == {"weight", "bias", "offset_conv.weight", "offset_conv.bias"}
    with pytest.raises(ValueError, match=r"input must be \[N, 4, D, H, W\] or \[4, D, H, W\]"):
        layer(torch.zeros(1, 3, 5, 5, 5))
    with pytest.raises(ValueError, match=r"only an nn\.Conv3d can be replaced"):
        AnisotropicConv3d.from_conv(nn.Conv2d(4, 4, 3))
