"""Networks by name: the three sources, and what is said of names and keywords that nobody knows."""

import importlib
import sys

import pytest
import torch

from foveal.models import create_model, factory, list_models


def test_list_models():
    ours, everything = list_models(), list_models(all=True)
    assert len(ours) == 43
    assert ours == sorted(ours)
    assert set(ours) < set(everything)
    assert {"resnet18", "deeplabv3_resnet50", "resnet10t"} < set(everything)
    assert len(everything) == len(set(everything)) > 1000


def test_ours_are_from_here(torchvision):
    for name in list_models():
        with torch.device("meta"):
            assert type(create_model(name)).__module__.startswith("foveal.models.")


def test_other_names_fall_through():
    with torch.device("meta"):
        assert sum(p.numel() for p in create_model("resnet18", num_classes=1000).parameters()) == 11_689_512
        assert type(create_model("resnet18", num_classes=4)).__module__ == "torchvision.models.resnet"
        network = create_model("resnet10t", num_classes=4, in_channels=1)
        assert type(network).__module__ == "timm.models.resnet"
        assert type(create_model("resnet18.a1_in1k")).__module__ == "timm.models.resnet"  # a tag asks for timm's
    assert network.conv1[0].in_channels == 1
    assert network.fc.out_features == 4


def test_nothing_is_downloaded(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a download was tried")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    network = create_model("lraspp_mobilenet_v3_large", num_classes=3)  # its backbone comes with weights otherwise
    assert network.classifier.low_classifier.out_channels == 3


@pytest.mark.parametrize(
    ("name", "near"),
    [("cifar_resnt20", "cifar_resnet20"), ("Resnet18", "resnet18"), ("efficientnetb0", "efficientnet_b0")],
)
def test_unknown_name(name, near):
    with pytest.raises(ValueError, match=rf"name must be that of a network; got '{name}', the nearest: .*{near}"):
        create_model(name)


@pytest.mark.parametrize("name", [None, 3, "", "#"])
def test_no_name_at_all(name):
    with pytest.raises(ValueError, match=r"list_models\(all=True\) has all names"):
        create_model(name)


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        ("cifar_resnet20", {"in_chanels": 1}, "no keyword 'in_chanels'; the nearest: in_channels"),
        ("cifar_resnet20", {"dropout": 0.1}, "no keyword 'dropout'; the nearest: in_channels, num_classes"),
        ("cifar_vgg16_gap", {"batchnorm": True, "x": 1}, "'batchnorm'; the nearest: batch_norm.*no keyword 'x'"),
        ("cifar_vgg19_bn", {"stem": True}, "no keyword 'stem'"),
        (
            "resnet18",
            {"zero_init_residuals": True},
            "no keyword 'zero_init_residuals'; the nearest: zero_init_residual",
        ),
        (
            "mobilenet_v3_small",
            {"droput": 0.1},
            "no keyword 'droput'; the nearest: dropout",
        ),  # swallowed by torchvision
        ("raft_small", {}, "no keyword 'num_classes'"),
        ("resnet10t", {"drop_rat": 0.1}, "no keyword 'drop_rat'; the nearest: drop_rate"),
    ],
)
def test_unknown_keyword(name, keywords, message):
    with pytest.raises(ValueError, match=message):
        create_model(name, **keywords)


def test_a_known_keyword_of_the_wrong_type_stays_an_error_of_the_network():
    with pytest.raises(TypeError):
        create_model("resnet18", replace_stride_with_dilation=3)


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "10"])
@pytest.mark.parametrize("argument", ["num_classes", "in_channels"])
def test_counts(argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be a whole number of at least 1; got {value!r}"):
        create_model("small_cnn", **{argument: value})


def test_torchvision_has_three_channels():
    with pytest.raises(ValueError, match="in_channels must be 3 for 'resnet18'"):
        create_model("resnet18", in_channels=1)
    with torch.device("meta"):
        assert create_model("resnet18", in_channels=3).conv1.in_channels == 3


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_without_a_library(monkeypatch, library):
    for module in [m for m in sys.modules if m.split(".")[0] == library]:
        monkeypatch.setitem(sys.modules, module, None)
    assert set(list_models()) < set(list_models(all=True))
    with torch.device("meta"):
        assert create_model("small_cnn").fc.out_features == 10
    with pytest.raises(ValueError, match=rf"{library}'s names need {library} \(pip install 'foveal\[train\]'\)"):
        create_model("no_such_network")


def test_with_a_torchvision_that_does_not_match_torch(monkeypatch):
    real = importlib.import_module

    def broken(name):
        if name == "torchvision.models":
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name)

    monkeypatch.setattr(factory.importlib, "import_module", broken)
    with pytest.raises(ValueError, match=r"need a torchvision that fits torch .*nms does not exist"):
        create_model("no_such_network")
