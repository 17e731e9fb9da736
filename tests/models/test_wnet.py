"""W-Net: sizes, parameters, two scores in training, and a loss of both."""

import pytest
import torch

from foveal.models import create_model


@pytest.mark.parametrize("size", [(64, 64), (37, 50), (16, 17)])
def test_the_output_has_the_size_of_the_image(size):
    with torch.device("meta"):
        model = create_model("wnet", num_classes=3, in_channels=1, widths=(4, 8)).eval()
        assert model(torch.zeros(2, 1, *size)).shape == (2, 3, *size)
        assert model.train()(torch.zeros(2, 1, *size)).shape == (2, 6, *size)


def test_parameters_are_few():
    model = create_model("wnet", num_classes=1)
    assert sum(p.numel() for p in model.parameters()) == 68_642


def test_the_second_sees_the_image_and_the_first():
    torch.manual_seed(0)
    model = create_model("wnet", num_classes=1, widths=(2, 4))
    image = torch.randn(2, 3, 16, 16)
    second, first = model(image).split(1, 1)
    torch.testing.assert_close(model.first(image), first)
    torch.testing.assert_close(model.second(torch.cat([image, first.sigmoid()], 1)), second)
    second.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.first.parameters())


def test_widths_are_checked():
    with pytest.raises(ValueError, match=r"widths must be at least two whole numbers of at least 1; got \(8,\)"):
        create_model("wnet", widths=(8,))
