"""deform_conv2d against torchvision's function, the cases of the ONNX standard, and what it says of bad arguments."""

import pytest
import torch

from foveal.ops import deform_conv2d


def random_case(seed):
    """Operands of a deformable convolution of any shape."""
    generator = torch.Generator().manual_seed(seed)

    def pick(*values):
        return values[int(torch.randint(len(values), (), generator=generator))]

    def random(*shape):
        return torch.randn(shape, generator=generator)

    groups, offset_groups = pick(1, 1, 2, 3), pick(1, 1, 2, 3)
    channels = groups * offset_groups * pick(1, 2, 5)
    outs = groups * pick(1, 2, 7)
    sides, stride, padding, dilation = ((pick(1, 2, 3), pick(1, 2, 3)) for _ in range(4))
    padding = (padding[0] - 1, padding[1] - 1)
    size = [d * (k - 1) + 1 + pick(0, 1, 4, 7) for d, k in zip(dilation, sides, strict=True)]
    out = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(size, padding, dilation, sides, stride, strict=True)
    ]
    points, batch = sides[0] * sides[1], pick(1, 2, 3)
    input, weight = random(batch, channels, *size), random(outs, channels // groups, *sides)
    offset = random(batch, offset_groups * 2 * points, *out) * pick(0.3, 2.0)
    bias = random(outs) if pick(True, False) else None
    mask = random(batch, offset_groups * points, *out) if pick(True, True, False) else None
    return input, offset, weight, bias, stride, padding, dilation, mask


@pytest.mark.parametrize("part", range(4))
def test_equals_torchvision(torchvision, part):
    """50 shapes each, output and every gradient; torchvision adds up in float64 here, so that the difference is ours."""
    for seed in range(50 * part, 50 * part + 50):
        found = []
        for function, change in ((torchvision.ops.deform_conv2d, torch.Tensor.double), (deform_conv2d, torch.clone)):
            given = [change(t) if isinstance(t, torch.Tensor) else t for t in random_case(seed)]
            tensors = [t.requires_grad_() for t in given if isinstance(t, torch.Tensor)]
            output = function(*given)
            generator = torch.Generator().manual_seed(seed)
            grad = torch.randn(output.shape, generator=generator).to(output.dtype)
            found.append([output.detach(), *torch.autograd.grad(output, tensors, grad)])
        for theirs, mine in zip(*found, strict=True):
            assert mine.shape == theirs.shape
            assert float((mine - theirs).norm()) <= 1e-5 * float(theirs.norm()) + 1e-6, seed


def onnx_cases():
    """The node cases of DeformConv in the ONNX standard (onnx.backend.test.case.node.deformconv), opset 22."""
    image, ones = torch.arange(9.0).reshape(1, 1, 3, 3), torch.ones(1, 1, 2, 2)
    offset = torch.zeros(1, 8, 4, 4)
    offset[0, 0, 0, 0], offset[0, 5, 1, 2] = 0.5, -0.1
    rows = [[0.0, 1.0, 3.0, 2.0], [3.0, 8.0, 11.9, 7.0], [9.0, 20.0, 24.0, 13.0], [6.0, 13.0, 15.0, 8.0]]
    yield "with padding", (image, offset, ones), {"padding": 1}, rows
    offset = torch.zeros(1, 8, 2, 2)
    offset[0, 0, 0, 0], offset[0, 5, 0, 1] = 0.5, -0.1
    yield "without padding", (image, offset, ones), {}, [[9.5, 11.9], [20.0, 24.0]]
    mask = torch.ones(1, 4, 2, 2)
    mask[0, 2, 1, 1] = 0.2
    yield "mask and bias", (image, offset, ones, torch.ones(1)), {"mask": mask}, [[10.5, 12.9], [21.0, 19.4]]
    both = torch.cat((image, 8 - image), 1)
    offset = torch.zeros(1, 16, 2, 2)
    offset[0, 0, 0, 0], offset[0, 13, 0, 1] = 0.5, -0.1
    yield "two offset groups", (both, offset, torch.ones(1, 2, 2, 2)), {}, [[33.5, 32.1], [32.0, 32.0]]


@pytest.mark.parametrize("case", list(onnx_cases()), ids=lambda case: case[0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cases_of_the_onnx_standard(case, dtype):
    _, tensors, more, expected = case
    more = {name: value.to(dtype) if isinstance(value, torch.Tensor) else value for name, value in more.items()}
    found = deform_conv2d(*(t.to(dtype) for t in tensors), **more)
    torch.testing.assert_close(found, torch.tensor([[expected]], dtype=dtype))


def test_there_are_four_of_them():
    assert len(list(onnx_cases())) == 4


def test_double_backward_and_half_types_which_torchvision_lacks():
    input, offset, weight, _, *rest, mask = random_case(3)
    tensors = [t.double().requires_grad_() for t in (input, offset, weight, mask)]

    def function(input, offset, weight, mask):
        return deform_conv2d(input, offset, weight, None, *rest, mask)

    assert mask is not None
    assert torch.autograd.gradgradcheck(function, tensors, fast_mode=True)
    exact = function(*tensors).detach()
    halves = [t.detach().bfloat16() for t in (input, weight)]
    found = deform_conv2d(halves[0], offset, halves[1], None, *rest, mask)
    again = function(halves[0].double(), offset.double(), halves[1].double(), mask.double())
    assert found.dtype == torch.bfloat16
    assert float((found - again).norm()) < 5e-3 * float(exact.norm())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"offset": torch.zeros(1, 17, 8, 8)}, "offset must have a multiple of 18 channels, dy and dx of 9 taps"),
        ({"offset": torch.zeros(1, 18, 7, 8)}, r"offset must have shape \(1, 18, 8, 8\)"),
        ({"offset": torch.zeros(1, 3 * 18, 8, 8)}, "offset_groups must divide the 4 channels"),
        ({"mask": torch.zeros(1, 18, 8, 8)}, r"mask must have shape \(1, 9, 8, 8\)"),
        ({"weight": torch.zeros(4, 3, 3, 3)}, "3 input channels a group must divide those of input"),
        ({"weight": torch.zeros(3, 2, 3, 3)}, "groups must divide weight's output channels, 3; got 2"),
        ({"weight": torch.zeros(4, 4, 9)}, "weight \\[O, C / groups, kh, kw\\]"),
        ({"bias": torch.zeros(3)}, r"bias must have shape \(4,\)"),
        ({"padding": "same"}, "padding must be a whole number"),
        ({"input": torch.zeros(4, 8, 8)}, "input must be \\[N, C, H, W\\]"),
    ],
)
def test_bad_arguments(change, words):
    good = {"input": torch.zeros(1, 4, 8, 8), "offset": torch.zeros(1, 18, 8, 8), "weight": torch.zeros(4, 4, 3, 3)}
    with pytest.raises(ValueError, match=words):
        deform_conv2d(**{**good, "padding": 1, **change})
