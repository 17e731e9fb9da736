"""Converted networks in the exchange formats: ONNX in onnxruntime and torch.export give what eager gives."""

import pytest
import torch
from torch import nn

from foveal import (
    AnisotropicConv2d,
    CrossConv1d,
    CrossConv2d,
    DeformableLKA,
    LogPolarConv1d,
    LogPolarConv2d,
    LogPolarConv3d,
    LogPolarPool2d,
    ModulatedDeformConv2d,
    SnakeConv2d,
    convert,
)
from foveal.models import create_model
from foveal.ops import onnx_deform

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def onnx_of(model, input, tmp_path, **arguments):
    """Export, check, and return the graph's operators and a way to run it."""
    onnx = pytest.importorskip("onnx", reason="needs the export extra")
    runtime = pytest.importorskip("onnxruntime", reason="needs the export extra")
    pytest.importorskip("onnxscript", reason="needs the export extra")
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, (input,), path, dynamo=True, opset_version=20, verbose=False, **arguments)
    graph = onnx.load(path)
    onnx.checker.check_model(graph, full_check=True)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return [node.op_type for node in graph.graph.node], lambda x: torch.from_numpy(
        session.run(None, {name: x.numpy()})[0]
    )


ON_GRIDS = {
    # operators that stand for it, and how often
    "anisotropic": (lambda: AnisotropicConv2d(4, 6), {"DeformConv": 1, "Conv": 2, "Max": 1}),
    "anisotropic, concat": (
        lambda: AnisotropicConv2d(4, 6, scales=(1, 2, 4), fuse="concat", share_weights=False),
        {"DeformConv": 2, "Concat": 1},
    ),
    "anisotropic, strided groups": (
        lambda: AnisotropicConv2d(4, 6, 5, stride=2, groups=2, dilation=2, offset_bound="half"),
        {"DeformConv": 2, "Max": 1},
    ),
    "sum": (lambda: AnisotropicConv2d(4, 6, scales=(2, 3), fuse="sum"), {"DeformConv": 2}),
    "modulated": (lambda: ModulatedDeformConv2d(4, 6, 3, 2, groups=2, offset_groups=2, dilation=2), {"DeformConv": 1}),
    "deformable, even window": (
        lambda: ModulatedDeformConv2d(4, 6, (2, 3), padding=(1, 0), modulated=False),
        {"DeformConv": 1},
    ),
    "deform_conv2d": (lambda: DeformableLKA(4), {"DeformConv": 2}),
}


@pytest.mark.parametrize("name", ON_GRIDS)
def test_points_on_grids_are_deform_conv(name, tmp_path):
    torch.manual_seed(0)
    make_layer, wanted = ON_GRIDS[name]
    layer = make_layer().eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    input = torch.randn(2, 4, 13, 12)
    with onnx_deform("DeformConv"):
        operators, run = onnx_of(layer, input, tmp_path)
    assert "GridSample" not in operators
    assert {kind: operators.count(kind) for kind in wanted} == wanted
    torch.testing.assert_close(run(input), layer(input).detach(), rtol=1e-4, atol=1e-4)
    assert "DeformConv" not in onnx_of(layer, input, tmp_path)[0]  # outside of the context


def test_points_on_no_grid_stay_grid_sample(tmp_path):
    layer, input = SnakeConv2d(4, 6).eval(), torch.randn(1, 4, 9, 8)
    with onnx_deform("auto"):
        operators, run = onnx_of(layer, input, tmp_path)
    assert (operators.count("GridSample"), operators.count("DeformConv")) == (1, 0)
    torch.testing.assert_close(run(input), layer(input).detach(), rtol=1e-4, atol=1e-4)
    half = AnisotropicConv2d(4, 6, scales=(1, 2.5)).eval()
    with onnx_deform("auto"):
        assert "GridSample" in onnx_of(half, input, tmp_path)[0]
    with pytest.raises(ValueError, match="needs points on a grid of pixels"), onnx_deform("DeformConv"):
        onnx_of(half, input, tmp_path)
    with (
        pytest.raises(ValueError, match="deform must be one of 'auto', 'DeformConv', 'GridSample'; got 'deform'"),
        onnx_deform("deform"),
    ):
        pass


LAYERS = {
    "log_polar": lambda: LogPolarConv2d(4, 6, 9, growth_rate=3.0, stride=2),
    "log_polar, reflect": lambda: LogPolarConv2d(4, 6, 5, padding_mode="reflect", groups=2),
    "log_polar, max": lambda: LogPolarConv2d(4, 6, 5, reduce="max", groups=2),
    "cross": lambda: CrossConv2d(4, 6, 3, field=7),
    "anisotropic": lambda: AnisotropicConv2d(4, 6),
    "anisotropic, concat": lambda: AnisotropicConv2d(4, 6, scales=(1, 2, 4), fuse="concat", share_weights=False),
    "anisotropic, strided groups": lambda: AnisotropicConv2d(
        4, 6, 5, stride=2, groups=2, dilation=2, offset_bound="half"
    ),
    "deformable": lambda: AnisotropicConv2d(4, 6, scales=(1,), offset_bound=None),
    "learned": lambda: AnisotropicConv2d(4, 6, scales="learned"),
}


def make(name):
    torch.manual_seed(0)
    layer = LAYERS[name]().eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return layer


@pytest.mark.parametrize("name", LAYERS)
def test_layers_in_onnxruntime(name, tmp_path):
    layer = make(name)
    sizes = {
        "dynamic_shapes": [{0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}]
    }
    operators, run = onnx_of(layer, torch.randn(2, 4, 16, 18), tmp_path, **sizes)
    for shape in ((2, 4, 16, 18), (1, 4, 23, 14)):
        input = torch.randn(shape)
        torch.testing.assert_close(run(input), layer(input).detach(), rtol=1e-4, atol=1e-4)
    if name == "log_polar":
        assert operators == ["Conv"]
    elif name == "cross":
        assert sorted(operators) == ["Concat", "Conv", "Conv"]
    elif "log_polar" not in name:
        assert "GridSample" in operators
        assert not any("foveal" in operator for operator in operators)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_in_torch_export(name):
    layer = make(name)
    input = torch.randn(2, 4, 16, 18)
    program = torch.export.export(layer, (input,))
    torch.testing.assert_close(program.module()(input), layer(input), rtol=1e-5, atol=1e-5)
    assert not any("foveal" in str(node.target) for node in program.graph.nodes)


DIMENSIONS = {
    "signals": lambda: LogPolarConv1d(4, 6, 17, radial_bins=3, stride=2),
    "signals, max": lambda: LogPolarConv1d(4, 6, 9, reduce="max"),
    "signals, cross": lambda: CrossConv1d(4, 6, 3, field=9),
    "volumes": lambda: LogPolarConv3d(4, 6, 5, groups=2),
    "volumes, max": lambda: LogPolarConv3d(4, 6, 3, reduce="max"),
    "volumes, reflect": lambda: LogPolarConv3d(4, 6, 3, padding_mode="reflect"),
}


@pytest.mark.parametrize("name", DIMENSIONS)
def test_signals_and_volumes(name, tmp_path):
    layer = DIMENSIONS[name]().eval()
    input = torch.randn(2, 4, 21) if "signals" in name else torch.randn(2, 4, 6, 7, 5)
    operators, run = onnx_of(layer, input, tmp_path)
    torch.testing.assert_close(run(input), layer(input).detach(), rtol=1e-4, atol=1e-4)
    if name == "volumes":
        assert operators == ["Conv"]
    assert not any("foveal" in operator for operator in operators)
    program = torch.export.export(layer, (input,))
    torch.testing.assert_close(program.module()(input), layer(input), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reduce", ["mean", "sum", "max"])
def test_pooling(reduce, tmp_path):
    pool = LogPolarPool2d(3, stride=2, radial_bins=1, angular_bins=4, reduce=reduce)
    sizes = {
        "dynamic_shapes": [{0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}]
    }
    _, run = onnx_of(pool, torch.randn(2, 4, 16, 18), tmp_path, **sizes)
    for shape in ((2, 4, 16, 18), (1, 4, 23, 14)):
        input = torch.randn(shape)
        torch.testing.assert_close(run(input), pool(input), rtol=1e-5, atol=1e-5)


def test_points_far_outside_the_map_read_zero_in_the_export_form():
    layer = make("deformable")
    with torch.no_grad():
        layer.offset_conv.bias.fill_(1e6)
    input = torch.randn(1, 4, 9, 9)
    program = torch.export.export(layer, (input,))
    torch.testing.assert_close(program.module()(input), layer(input), rtol=1e-5, atol=1e-5)


def test_a_converted_network(tmp_path):
    model = nn.Sequential(
        nn.Conv2d(3, 8, 7, stride=2, padding=3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip
    plan = {"0": {"layer": "log_polar", "kernel_size": 9, "growth_rate": 3.0}, "3": {"layer": "anisotropic"}}
    model = convert(model, plan).eval()
    for size in (32, 41):
        input = torch.randn(2, 3, size, size)
        operators, run = onnx_of(model, input, tmp_path)
        torch.testing.assert_close(run(input), model(input).detach(), rtol=1e-4, atol=1e-4)
    assert operators.count("GridSample") == 2


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_jit_trace():
    layer = make("anisotropic")
    input = torch.randn(1, 4, 12, 12)
    traced = torch.jit.trace(layer, input)
    torch.testing.assert_close(traced(input), layer(input), rtol=1e-5, atol=1e-5)


LPSC = {"layer": "log_polar", "radial_bins": 2, "angular_bins": 8, "growth_rate": 4.0, "support": "square"}
SEGMENTATION = {
    "deeplabv3plus": ("deeplabv3plus_mobilenetv2", {"width": 0.25}, {"aspp.atrous3.0": {**LPSC, "kernel_size": 9}}),
    "cenet": ("cenet", {"width": 4}, {"dac.d3": {**LPSC, "kernel_size": 9}, "dac.d5": {**LPSC, "kernel_size": 15}}),
}


@pytest.mark.usefixtures("torchvision")
@pytest.mark.parametrize("name", SEGMENTATION)
def test_segmentation_networks_in_onnxruntime(name, tmp_path):
    network, keywords, plan = SEGMENTATION[name]
    model = convert(create_model(network, num_classes=3, **keywords), plan).eval()
    for size in ((192, 192), (224, 288)):
        image = torch.randn(1, 3, *size)
        operators, run = onnx_of(model, image, tmp_path)
        assert not any("foveal" in operator for operator in operators)
        torch.testing.assert_close(run(image), model(image).detach(), rtol=1e-3, atol=1e-4)
