"""What is opened, and what is said of files that are none."""

import pytest
import torch
from torch import nn

from foveal.deploy import export, open_file
from foveal.deploy.runtime import Network


def test_a_file_is_a_network(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    done = export(model, torch.randn(1, 3, 8, 8), tmp_path / "model.pt2", to="pt2")
    network = Network(open_file(done.path)).eval()
    input = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(network(input), model(input).detach())
    assert list(network.parameters()) == []


def test_files_of_others_and_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.onnx is not there"):
        open_file(tmp_path / "nothing.onnx")
    other = tmp_path / "model.bin"
    other.write_bytes(b"")
    with pytest.raises(ValueError, match=r"model\.bin must end in \.onnx, \.xml, \.pt2"):
        open_file(other)
    for name in ("broken.onnx", "broken.pt2"):
        if name.endswith("onnx"):
            pytest.importorskip("onnxruntime", reason="onnx files need onnxruntime")
        (tmp_path / name).write_bytes(b"not a network")
        with pytest.raises(ValueError, match=f"{name} is no file of "):
            open_file(tmp_path / name)
