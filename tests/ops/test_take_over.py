"""torchvision's operator on our kernels: its modules, a network that calls it, and the way back."""

import subprocess
import sys
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from torch import nn

import foveal
from foveal.ops import take_over
from foveal.ops.sampled import op

NAME = "torchvision::deform_conv2d"


class DeformableConv(nn.Module):
    """A deformable convolution as published segmentation networks write it: two predictors, modulator 2 * sigmoid."""

    def __init__(self, torchvision, channels, outs, kernel_size):
        super().__init__()
        self.function, self.padding = torchvision.ops.deform_conv2d, kernel_size // 2
        pad = {"padding": self.padding}
        self.offset_conv = nn.Conv2d(channels, 2 * kernel_size**2, kernel_size, **pad)
        self.modulator_conv = nn.Conv2d(channels, kernel_size**2, kernel_size, **pad)
        self.regular_conv = nn.Conv2d(channels, outs, kernel_size, bias=False, **pad)

    def forward(self, x):
        return self.function(
            input=x,
            offset=self.offset_conv(x),
            weight=self.regular_conv.weight,
            bias=self.regular_conv.bias,
            padding=self.padding,
            mask=2 * torch.sigmoid(self.modulator_conv(x)),
        )


class DeformableASPP(nn.Module):
    """Branches with kernels of 1, 3 and 7 and a pooled one, as in BiRefNet's decoder."""

    def __init__(self, torchvision, channels=8, inner=6):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(DeformableConv(torchvision, channels, inner, k), nn.BatchNorm2d(inner), nn.ReLU())
            for k in (1, 1, 3, 7)
        )
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, inner, 1), nn.ReLU())
        self.join = nn.Conv2d(5 * inner, channels, 1)

    def forward(self, x):
        found = [branch(x) for branch in self.branches]
        pooled = self.pooled(x).expand(-1, -1, *x.shape[2:])
        return self.join(torch.cat([*found, pooled], 1))


@pytest.fixture
def taken(torchvision):
    with foveal.take_over(NAME) as handle:
        yield handle


def results(network, input):
    output = network(input)
    grad = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
    parameters = [p for p in network.parameters() if p.requires_grad]
    return [output.detach(), *torch.autograd.grad(output, [input, *parameters], grad)]


def close(mine, theirs, tolerance=1e-5):
    assert float((mine - theirs).detach().norm()) <= tolerance * float(theirs.detach().norm()) + 1e-7


@contextmanager
def called():
    """The op of images, counted."""
    calls = mock.Mock(wraps=op._OPS[2].forward)
    with mock.patch.dict(op._OPS, {2: op._OPS[2]._replace(forward=calls)}):
        yield calls


def test_torchvisions_module(torchvision):
    module = torchvision.ops.DeformConv2d(8, 6, 3, stride=2, padding=1, groups=2)
    input, offset = torch.randn(2, 8, 9, 11), torch.randn(2, 36, 5, 6)
    for mask in (None, torch.rand(2, 18, 5, 6)):
        network = type("Fixed", (nn.Module,), {"forward": lambda self, x, mask=mask: module(x, offset, mask)})()
        network.module = module
        theirs = results(network, input.requires_grad_())
        with foveal.take_over(NAME):
            op._READY.clear()
            with called() as calls:
                mine = results(network, input)
            assert calls.call_count == 1
        for one, other in zip(mine, theirs, strict=True):
            close(one, other)


def test_a_network_with_deformable_pooling_branches(torchvision):
    torch.manual_seed(0)
    network = DeformableASPP(torchvision)
    input = torch.randn(2, 8, 12, 10, requires_grad=True)
    theirs = results(network, input)
    with foveal.take_over(NAME):
        mine = results(network, input)
    for one, other in zip(mine, theirs, strict=True):
        close(one, other, 1e-5 if one is mine[0] else 2e-4)  # batch norm's gradients are differences


def operands(dtype=torch.float32):
    torch.manual_seed(1)
    shapes = ((2, 4, 6, 7), (2, 18, 6, 7), (3, 4, 3, 3), (3,), (2, 9, 6, 7))
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]


def call(torchvision, input, offset, weight, bias, mask):
    return torchvision.ops.deform_conv2d(input, offset, weight, bias, padding=1, mask=mask)


def test_every_mode(torchvision):
    given = operands()
    expected = call(torchvision, *given).detach()
    with foveal.take_over(NAME):
        close(call(torchvision, *given), expected)
        with torch.no_grad():
            close(call(torchvision, *given), expected)
        with torch.inference_mode():
            close(call(torchvision, *(t.detach().clone() for t in given)), expected)
        compiled = torch.compile(lambda *t: call(torchvision, *t).sin(), fullgraph=True, backend="aot_eager")
        found = compiled(*given)
        close(found, expected.sin())
        wanted = torch.autograd.grad(call(torchvision, *given).sin().sum(), given)
        for mine, theirs in zip(torch.autograd.grad(found.sum(), given), wanted, strict=True):
            close(mine, theirs)


def test_autocast_and_bfloat16(torchvision, taken):
    given = operands()
    expected = call(torchvision, *given).detach()
    with torch.autocast("cpu", torch.bfloat16):
        found = call(torchvision, *given)
        assert found.dtype == torch.float32  # as torchvision's: its own autocast keeps the dtype of the input
        close(found, expected)
        half = call(torchvision, given[0].bfloat16(), *given[1:])
        assert half.dtype == torch.bfloat16
        close(half.float(), expected, 2e-2)
    half = call(torchvision, *operands(torch.bfloat16))
    half.sum().backward()
    assert half.dtype == torch.bfloat16


def test_what_torchvision_cannot_do(torchvision, taken):
    given = [t.double().detach().requires_grad_() for t in operands()]
    assert torch.autograd.gradgradcheck(lambda *t: call(torchvision, *t), given, fast_mode=True)
    with torch.no_grad():
        given[1][0, 3, 2, 2] = float("nan")  # which ends the process there
    assert call(torchvision, *given)[0, :, 2, 2].isnan().all()


def test_it_is_given_back_and_told(torchvision):
    given = operands()
    expected = call(torchvision, *given)
    assert not take_over.taken_over()
    handle = foveal.take_over(NAME)
    assert foveal.take_over(NAME) is handle
    assert take_over.taken_over() == [NAME]
    assert repr(handle) == f"<{NAME} on our kernels>"
    handle.give_back()
    handle.give_back()
    assert repr(handle) == f"<{NAME} given back>"
    assert not take_over.taken_over()
    again = call(torchvision, *given)
    assert torch.equal(again, expected)
    assert type(again.grad_fn) is type(expected.grad_fn)


def test_unknown_operators_are_refused():
    with pytest.raises(ValueError, match=r"name must be one of 'torchvision::deform_conv2d'; got 'torchvision::nms'"):
        foveal.take_over("torchvision::nms")


def test_without_torchvision_the_error_says_so():
    code = """
import sys
sys.modules["torchvision"] = None
import foveal
try:
    foveal.take_over()
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "install a torchvision that fits torch" in done.stdout
