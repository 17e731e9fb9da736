"""Weights of a backbone: read, refused with reasons, and what is said without a network."""

import socket

import pytest
import torch
from safetensors.torch import save_file

from foveal.models.pretrained import load_backbone


@pytest.fixture
def resnet(torchvision):
    return torchvision.models.resnet18


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file(resnet, tmp_path, suffix):
    theirs, mine = resnet(num_classes=3), resnet()
    path = tmp_path / f"weights{suffix}"
    (torch.save if suffix == ".pth" else save_file)(theirs.state_dict(), path)
    head = mine.fc.weight.clone()
    load_backbone(mine, "resnet18", path)
    assert torch.equal(mine.layer3[0].conv1.weight, theirs.layer3[0].conv1.weight)
    assert torch.equal(mine.fc.weight, head)


def test_a_file_of_another_network(resnet, tmp_path, torchvision):
    torch.save(torchvision.models.resnet34().state_dict(), tmp_path / "weights.pth")
    with pytest.raises(
        ValueError, match=r"does not hold the weights of resnet18: layer1.2.bn1.bias is unknown; .*more"
    ):
        load_backbone(resnet(), "resnet18", tmp_path / "weights.pth")


def test_damaged_files(resnet, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"weights.pth cannot be read as weights"):
        load_backbone(resnet(), "resnet18", path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="must hold a dict of tensors"):
        load_backbone(resnet(), "resnet18", path)


def test_no_such_name(resnet):
    with pytest.raises(
        ValueError, match="weights must be a file, or one of IMAGENET1K_V1 for resnet18; got 'imagenet'"
    ):
        load_backbone(resnet(), "resnet18", "imagenet")


def test_without_a_network(resnet, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(
        ValueError, match=r"cannot be downloaded here \(no route to host\); .*get https://.*resnet18-.*pth"
    ):
        load_backbone(resnet(), "resnet18", "IMAGENET1K_V1")


def test_what_was_downloaded_before_needs_no_network(resnet, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    theirs, mine = resnet(), resnet()
    torch.save(theirs.state_dict(), tmp_path / "checkpoints" / "resnet18-f37072fd.pth")
    load_backbone(mine, "resnet18", "IMAGENET1K_V1")
    assert torch.equal(mine.conv1.weight, theirs.conv1.weight)
