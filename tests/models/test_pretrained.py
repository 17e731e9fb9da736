"""Pretrained weights: of whole networks with a new head, and of backbones; an answer at once where they are not there."""

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


class Entry:
    """What torchvision's builders do with weights, but for the download."""

    def __init__(self, monkeypatch, network, name, classes):
        torch.manual_seed(3)
        self.network = create_model(network, num_classes=classes)
        import torchvision

        entry = torchvision.models.get_model_weights(network)[name]
        monkeypatch.setattr(type(entry), "get_state_dict", lambda *_, **__: self.network.state_dict())


@pytest.mark.parametrize(
    ("network", "name", "classes", "head"),
    [
        ("resnet18", "IMAGENET1K_V1", 1000, {"fc.weight", "fc.bias"}),
        ("mobilenet_v3_small", "DEFAULT", 1000, {"classifier.3.weight", "classifier.3.bias"}),
        ("squeezenet1_1", "SqueezeNet1_1_Weights.DEFAULT", 1000, {"classifier.1.weight", "classifier.1.bias"}),
        ("lraspp_mobilenet_v3_large", "DEFAULT", 21, None),
    ],
)
def test_torchvisions_weights_get_a_new_head(monkeypatch, network, name, classes, head):
    state = Entry(monkeypatch, network, name.rpartition(".")[2], classes).network.state_dict()
    own = create_model(network, num_classes=4, weights=name).state_dict()
    other = {key for key in state if own[key].shape != state[key].shape}
    assert (
        other == head
        if head
        else {key.rpartition(".")[0] for key in other} == {"classifier.low_classifier", "classifier.high_classifier"}
    )
    assert all(torch.equal(own[key], state[key]) for key in state if key not in other)
    same = create_model(network, num_classes=classes, weights=name).state_dict()
    assert all(torch.equal(same[key], state[key]) for key in state), "with as many classes the head comes along"


def test_an_entry_of_torchvisions_enumeration(monkeypatch):
    from torchvision.models import ResNet18_Weights

    state = Entry(monkeypatch, "resnet18", "DEFAULT", 1000).network.state_dict()
    own = create_model("resnet18", num_classes=2, weights=ResNet18_Weights.DEFAULT)
    assert torch.equal(own.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])
    assert own.init_layer is not None


def test_timms_weights_get_a_new_head(monkeypatch, timm):
    asked = {}
    real = timm.create_model

    def build(name, pretrained=False, **keywords):
        asked[name] = pretrained
        return real(name, **keywords)

    monkeypatch.setattr(timm, "create_model", build)
    assert create_model("resnet10t", num_classes=4, weights="DEFAULT").fc.out_features == 4
    assert asked == {"resnet10t": True}


@pytest.mark.parametrize("network", ["resnet18", "cifar_resnet20", "resnet10t"])
@pytest.mark.parametrize("form", ["plain.pth", "checkpoint.pt", "plain.safetensors"])
def test_a_file_of_ones_own(tmp_path, network, form, timm):
    from safetensors.torch import save_file

    torch.manual_seed(5)
    state = {key: value.clone() for key, value in create_model(network, num_classes=7).state_dict().items()}
    path = tmp_path / form
    if form == "plain.safetensors":
        save_file(state, path)
    else:
        torch.save(state if form == "plain.pth" else {"model": {f"module.{k}": v for k, v in state.items()}}, path)
    own = create_model(network, num_classes=4, weights=path)
    assert own.fc.out_features == 4
    assert all(torch.equal(value, state[key]) for key, value in own.state_dict().items() if not key.startswith("fc."))
    assert torch.equal(create_model(network, num_classes=7, weights=str(path)).fc.weight, state["fc.weight"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state | {"stem.weight": torch.zeros(1)}, "another network: it also has stem.weight"),
        (lambda state: {k: v for k, v in state.items() if k != "conv1.weight"}, "it has no conv1.weight"),
        (
            lambda state: state | {"conv1.weight": torch.zeros(64, 1, 7, 7)},
            r"it has conv1.weight \[64, 1, 7, 7\] for \[64, 3",
        ),
        (lambda state: [1], "must hold a state dict, names and tensors; got list"),
        (lambda state: None, "must hold a state dict"),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, change, words):
    torch.save(change(dict(create_model("resnet18").state_dict())), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=f"weights.pth .*{words}"):
        create_model("resnet18", num_classes=4, weights=tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("network", "words"),
    [("resnet18", "or torchvision's IMAGENET1K_V1"), ("resnet10t", "or timm's DEFAULT"), ("cifar_resnet20", "$")],
)
def test_weights_that_are_not_there(network, words, timm):
    with pytest.raises(
        FileNotFoundError, match=f"weights 'IMAGENET' of {network} must be a file with a state dict.*{words}"
    ):
        create_model(network, weights="IMAGENET")


def test_what_weights_were_trained_for(tmp_path, timm):
    from foveal.models.factory import about_weights

    theirs = about_weights("resnet18", "IMAGENET1K_V1")
    assert (theirs.num_classes, theirs.classes[207], theirs.resize, theirs.size) == (1000, "golden retriever", 256, 224)
    timms = about_weights("resnet18.a1_in1k", "DEFAULT")
    assert (timms.num_classes, timms.classes[207], timms.mean) == (1000, "golden retriever", (0.485, 0.456, 0.406))
    torch.save(create_model("cifar_resnet20", num_classes=7).state_dict(), tmp_path / "own.pth")
    own = about_weights("cifar_resnet20", tmp_path / "own.pth")
    assert own == (7, None, None, None, None, None)
    headless = {k: v for k, v in create_model("cifar_resnet20").state_dict().items() if not k.startswith("fc.")}
    torch.save(headless, tmp_path / "headless.pth")
    with pytest.raises(
        ValueError, match=r"headless.pth must hold the network with its last layer, fc.bias or fc.weight"
    ):
        about_weights("cifar_resnet20", tmp_path / "headless.pth")
    assert create_model("cifar_resnet20", num_classes=5, weights=tmp_path / "headless.pth").fc.out_features == 5


def test_a_network_is_opened_without_what_it_started_from():
    from foveal.models.pretrained import asks_for_weights, without_weights

    said = {"weights": "DEFAULT", "aux_logits": False}
    assert without_weights("googlenet", said) == {"weights": None, "aux_logits": False, "transform_input": True}
    assert without_weights("googlenet", {"aux_logits": False}) == {"aux_logits": False}
    assert without_weights("resnet10t", {"pretrained": True}) == {"pretrained": False}
    assert asks_for_weights(said)
    assert not asks_for_weights({"weights": None, "pretrained": False, "backbone_weights": "file.pth"})
