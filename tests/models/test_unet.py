"""U-Net: sizes, widths and shortcuts."""

import pytest
import torch

from foveal.models import create_model


@pytest.mark.parametrize("size", [(64, 64), (37, 50), (16, 17)])
def test_the_output_has_the_size_of_the_image(size):
    with torch.device("meta"):
        model = create_model("unet", num_classes=3, in_channels=1, width=4).eval()
        assert model(torch.zeros(2, 1, *size)).shape == (2, 3, *size)


def test_parameters():
    with torch.device("meta"):
        model = create_model("unet", num_classes=1)
    assert sum(p.numel() for p in model.parameters()) == 31_037_633


def test_every_shortcut_is_used():
    torch.manual_seed(0)
    model = create_model("unet", num_classes=1, width=2).eval()
    image = torch.randn(1, 3, 32, 32)
    before = model(image)
    for k in range(4):
        weight = model.merge[k][0].weight
        half = weight.shape[1] // 2
        kept = weight.detach().clone()
        with torch.no_grad():
            weight[:, :half] = 0
            assert not torch.equal(model(image), before), k
            weight.copy_(kept)
