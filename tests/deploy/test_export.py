"""Exported files give PyTorch's outputs in their own runtimes, or there is no file."""

import warnings

import pytest
import torch
from torch import nn

import foveal
from foveal import AnisotropicConv2d, CrossConv2d, LogPolarConv2d, LogPolarConv3d, ModulatedDeformConv2d, convert
from foveal.deploy import ExportError, export, open_file
from foveal.deploy.export import SUFFIX
from foveal.deploy.runtime import RUNTIMES
from foveal.models import create_model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def needs(to):
    for package in {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",)}.get(to, ()):
        pytest.importorskip(package, reason=f"{to} needs {package}")


def network():
    """A layer of each kind, batch normalisation behind them."""
    model = nn.Sequential(
        LogPolarConv2d(3, 8, 9, growth_rate=3.0), nn.BatchNorm2d(8), nn.ReLU(),
        CrossConv2d(8, 8, 3, field=5, stride=2), nn.BatchNorm2d(8), nn.ReLU(),
        AnisotropicConv2d(8, 8), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip
    for module in model:
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2)
    return model


@pytest.mark.parametrize("to", ["onnx", "pt2", "openvino"])
def test_every_target_is_right_at_any_batch_and_size(to, tmp_path):
    needs(to)
    model = network().train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    path = tmp_path / f"new folder/model{SUFFIX[to]}"
    image = torch.randn(2, 3, 23, 31)
    done = export(
        model, torch.randn(1, 3, 32, 32), path, to=to, dynamic=("batch", "size"), metadata={"a": [1]}, images=[image]
    )
    assert [check.what for check in done.checks] == ["the example", *["random numbers"] * 3, "an image"]
    assert {check.shape for check in done.checks} == {(1, 3, 32, 32), (3, 3, 32, 32), (1, 3, 64, 64), (2, 3, 23, 31)}
    assert 0 < done.difference < 1e-5
    opened = open_file(path)
    assert opened.metadata == {"a": [1]}
    model.eval()
    other = torch.randn(5, 3, 40, 36)
    torch.testing.assert_close(opened.run(other), model(other).detach(), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items()), "the model is as it was"
    left = {file.name for file in path.parent.iterdir()}
    assert left == {path.name} | ({"model.bin"} if to == "openvino" else set())


def deformable():
    model = nn.Sequential(
        AnisotropicConv2d(3, 4, scales=(1, 2)), ModulatedDeformConv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize(
    ("deform", "operators"),
    [
        ("auto", {"DeformConv": 2, "GridSample": 0}),
        ("DeformConv", {"DeformConv": 2, "GridSample": 0}),
        ("GridSample", {"DeformConv": 0, "GridSample": 2}),
    ],
)
def test_moving_points_are_read_by_the_operator_that_was_asked_for(deform, operators, tmp_path):
    needs("onnx")
    import onnx

    path, model = tmp_path / "model.onnx", deformable()
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        done = export(model, torch.randn(1, 3, 16, 16), path, dynamic=("batch", "size"), deform=deform)
    assert done.difference < 1e-4
    assert not any("GridSample" in note for note in done.notes)
    types = [node.op_type for node in onnx.load(path).graph.node]
    counted = {name: types.count(name) for name in operators}
    assert counted["DeformConv"] == operators["DeformConv"]
    assert bool(counted["GridSample"]) == bool(operators["GridSample"])


def test_a_runtime_without_the_operator_gets_the_other_and_the_note_says_so(monkeypatch, tmp_path):
    needs("onnx")
    import onnx

    class Old(RUNTIMES["onnx"]):
        def __init__(self, path, threads):
            if any(node.op_type == "DeformConv" for node in onnx.load(path).graph.node):
                raise RuntimeError("Could not find an implementation for DeformConv(19)")
            super().__init__(path, threads)

    monkeypatch.setitem(RUNTIMES, "onnx", Old)
    example = torch.randn(1, 3, 16, 16)
    done = export(deformable(), example, tmp_path / "model.onnx")
    assert any("GridSample" in note and "Could not find an implementation" in note for note in done.notes)
    with pytest.raises(ExportError, match="Could not find an implementation"):
        export(deformable(), example, tmp_path / "other.onnx", deform="DeformConv")
    assert not (tmp_path / "other.onnx").exists()


def test_points_on_no_grid_cannot_be_asked_for(tmp_path):
    needs("onnx")
    layer = AnisotropicConv2d(3, 4, scales=(1, 2.5))
    with pytest.raises(ExportError, match="needs points on a grid of pixels"):
        export(layer, torch.randn(1, 3, 16, 16), tmp_path / "model.onnx", deform="DeformConv")
    assert export(layer, torch.randn(1, 3, 16, 16), tmp_path / "model.onnx").difference < 1e-4
    strided = AnisotropicConv2d(3, 4, stride=2)
    with pytest.raises(ExportError, match="may change under a stride"):
        export(strided, torch.randn(1, 3, 16, 16), tmp_path / "two.onnx", dynamic=("size",), deform="DeformConv")


@pytest.mark.slow
def test_a_package_compiled_ahead_of_time(tmp_path):
    done = export(network(), torch.randn(1, 3, 32, 32), tmp_path / "model.pt2", to="aoti", metadata={"b": 2})
    assert done.difference < 1e-5
    assert open_file(done.path).metadata == {"b": 2}


def test_what_is_fixed_is_fixed(tmp_path):
    needs("onnx")
    done = export(network(), torch.randn(2, 3, 32, 32), tmp_path / "model.onnx", dynamic=())
    assert [check.shape for check in done.checks] == [(2, 3, 32, 32)] * 2
    with pytest.raises(Exception, match="Got invalid dimensions"):
        open_file(done.path).run(torch.randn(1, 3, 32, 32))


def test_half(tmp_path):
    needs("onnx")
    model = nn.Sequential(LogPolarConv2d(3, 8, 9), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    single = export(model, torch.randn(1, 3, 32, 32), tmp_path / "single.onnx")
    half = export(model, torch.randn(1, 3, 32, 32), tmp_path / "half.onnx", half=True)
    assert single.difference < 1e-5 < half.difference < 2e-2
    assert half.path.stat().st_size < single.path.stat().st_size


def test_volumes(tmp_path):
    needs("onnx")
    model = nn.Sequential(LogPolarConv3d(2, 3, 5), nn.BatchNorm3d(3), nn.ReLU())
    done = export(model, torch.randn(1, 2, 6, 7, 8), tmp_path / "volume.onnx", dynamic=("batch", "size"))
    assert done.difference < 1e-5


def test_normalisation_behind_a_maximum_is_told(tmp_path):
    model = nn.Sequential(AnisotropicConv2d(3, 4), nn.BatchNorm2d(4))
    with torch.no_grad():
        model[1].weight[2] = -1
    done = export(model, torch.randn(1, 3, 16, 16), tmp_path / "model.pt2", to="pt2")
    assert len(done.notes) == 1
    assert "a maximum over scales does not commute" in done.notes[0]


class Drifting(nn.Module):
    """A network whose exported form is another function: the trace keeps what was random once."""

    def forward(self, x):
        return x + torch.randn(()) if torch.compiler.is_exporting() else x


def test_a_file_with_other_outputs_is_not_kept(tmp_path):
    with pytest.raises(ExportError, match=r"pt2's outputs differ from PyTorch's by .* No file is kept"):
        export(Drifting(), torch.ones(1, 3, 8, 8), tmp_path / "model.pt2", to="pt2")
    assert list(tmp_path.iterdir()) == []


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Listing(nn.Module):
    def forward(self, x):
        return [x]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Branching(), "Branching cannot be exported to pt2: "),
        (Listing(), "the network must give one tensor; it gives list"),
    ],
)
def test_networks_that_cannot_be_exported_are_named(model, words, tmp_path):
    with pytest.raises(ExportError, match=words):
        export(model, torch.ones(1, 3, 8, 8), tmp_path / "model.pt2", to="pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"to": "tflite"}, "to must be one of 'onnx', 'pt2', 'aoti', 'openvino'; got 'tflite'"),
        ({"path": "model.pt"}, r"path must end in \.pt2 for pt2; got model\.pt"),
        ({"dynamic": "batch"}, "dynamic must be some of batch, size; got 'batch'"),
        ({"dynamic": ("width",)}, "dynamic must be some of batch, size"),
        ({"opset": 18}, "opset must be 20 or later"),
        ({"form": "fast"}, "form must be one of"),
        ({"example": torch.ones(1, 3, 8, 8, dtype=torch.uint8)}, "example must be float"),
        ({"example": torch.ones(3, 8)}, "example must be float"),
    ],
)
def test_bad_arguments(change, words, tmp_path):
    given = {"example": torch.ones(1, 3, 8, 8), "path": "model.pt2", "to": "pt2"} | change
    given["path"] = tmp_path / given["path"]
    with pytest.raises(ValueError, match=words):
        export(nn.Conv2d(3, 3, 1), given.pop("example"), given.pop("path"), **given)


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r"onnx needs onnx and onnxscript and onnxruntime: pip install 'foveal\[export\]'"
    ):
        export(nn.Conv2d(3, 3, 1), torch.ones(1, 3, 8, 8), tmp_path / "model.onnx")
    with pytest.raises(ImportError, match=r"openvino needs .*openvino: pip install 'foveal\[openvino\]'"):
        export(nn.Conv2d(3, 3, 1), torch.ones(1, 3, 8, 8), tmp_path / "model.xml", to="openvino")


ZOO = ["resnet18", "vgg11_bn", "mobilenet_v2", "efficientnet_b0", "densenet121", "convnext_tiny", "regnet_y_400mf", "shufflenet_v2_x1_0", "mnasnet0_5", "squeezenet1_1"]  # fmt: skip
PLANS = {
    "plain": {},
    "log_polar": {"type:Conv2d[kernel_size=3]": {"layer": "log_polar", "kernel_size": 5, "growth_rate": 3.0}},
    "log_polar, wide": {"type:Conv2d[kernel_size=3]": {"layer": "log_polar", "kernel_size": 13, "growth_rate": 3.0}},
    "deformable": {"type:Conv2d[kernel_size=3, stride=2, depthwise=false]": {"layer": "deformable"}},
}


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", ZOO)
def test_forty_networks(name, plan, tmp_path):
    needs("onnx")
    pytest.importorskip("torchvision", reason="needs torchvision's networks")
    model = create_model(name, num_classes=7)
    try:
        convert(model, PLANS[plan])
    except ValueError as error:
        pytest.skip(str(error))
    done = export(model, torch.randn(1, 3, 64, 64), tmp_path / "model.onnx")
    assert done.difference <= 1e-4


def test_it_is_handed_on():
    assert foveal.export is export
