"""What a wheel must do where nothing but foveal and what it needs is installed: import, compiled kernels, one layer, its data."""

import importlib.util
from importlib.resources import files

import torch

import foveal
from foveal.ops.native.library import instruction_sets

assert importlib.util.find_spec("torchvision") is None, "this environment holds more than foveal needs"
assert instruction_sets(), "the wheel has no CPU kernels"
for name in ("py.typed", "reports/page.html.jinja", "tables/quickstart"):
    path = files("foveal") / name
    assert path.is_file() or path.is_dir(), f"the wheel lacks {name}"

layer = foveal.LogPolarConv2d(3, 8, 9, bias=False)
image = torch.randn(1, 3, 16, 16)
convolution = torch.nn.functional.conv2d(image, layer.to_conv().weight, padding=4)
torch.testing.assert_close(layer(image), convolution, atol=1e-5, rtol=1e-5)
print(f"foveal {foveal.__version__} with torch {torch.__version__}: kernels for {', '.join(instruction_sets())}")
