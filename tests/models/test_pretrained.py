"""Pretrained backbones: from a file, by name where the file is there, and at once an answer where it is not."""

import time

import pytest
import torch

from foveal.models import create_model

pytestmark = pytest.mark.usefixtures("torchvision")


def test_a_file_and_a_name(tmp_path, monkeypatch):
    from torchvision.models import mobilenet_v2

    torch.manual_seed(1)
    state = mobilenet_v2(weights=None).state_dict()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints/mobilenet_v2-b0353104.pth"
    torch.save(state, path)
    for weights in (str(path), "IMAGENET1K_V1"):
        model = create_model("deeplabv3plus_mobilenetv2", backbone_weights=weights)
        assert torch.equal(model.backbone["low"][0][0].weight, state["features.0.0.weight"])
        assert torch.equal(model.backbone["high"].get_submodule("17.conv.2").weight, state["features.17.conv.2.weight"])


def test_the_encoder_of_cenet(tmp_path):
    from torchvision.models import resnet34

    state = resnet34(weights=None).state_dict()
    torch.save(state, tmp_path / "resnet34.pth")
    model = create_model("cenet", num_classes=1, backbone_weights=str(tmp_path / "resnet34.pth"))
    own = model.state_dict()
    shared = [name for name in state if not name.startswith("fc.")]
    assert len(shared) > 200
    assert all(torch.equal(own[name], state[name]) for name in shared)
    with pytest.raises(ValueError, match="backbone_weights are for width 64 and in_channels 3; got width 16"):
        create_model("cenet", num_classes=1, width=16, backbone_weights="DEFAULT")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("IMAGENET1K_V1", r"is not there; fetch it: curl --create-dirs -o .*mobilenet_v2-.*\.pth https://"),
        ("no/such/file.pth", "is not there; give a file, or a name of torchvision's: IMAGENET1K_V1"),
    ],
)
def test_what_is_not_there_is_said_at_once(weights, message, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    start = time.perf_counter()
    with pytest.raises(FileNotFoundError, match=message):
        create_model("deeplabv3plus_mobilenetv2", backbone_weights=weights)
    assert time.perf_counter() - start < 1


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.pth").write_text("nothing")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    for name in ("text.pth", "other.pth"):
        with pytest.raises(ValueError, match="must hold the state dict of torchvision's network"):
            create_model("deeplabv3plus_mobilenetv2", backbone_weights=str(tmp_path / name))
