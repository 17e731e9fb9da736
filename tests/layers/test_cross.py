"""A square and a log-polar kernel side by side, in 1, 2 and 3 dimensions."""

import pytest
import torch
from torch import nn

from foveal import CrossConv1d, CrossConv2d, CrossConv3d, LogPolarConv1d, LogPolarConv2d, LogPolarConv3d


def test_cross_projection_keeps_the_conventional_channels():
    old = nn.Conv2d(2, 8, 3, padding=1)
    new = CrossConv2d.from_conv(old, init="project", share=0.25, field=5)
    input = torch.randn(1, 2, 6, 6)
    torch.testing.assert_close(new(input)[:, :6], old(input)[:, :6])


def test_cross_at_its_ends():
    input = torch.randn(1, 4, 9, 9)
    none = CrossConv2d(4, 6, 3, share=0)
    assert none.log_polar is None
    conv = nn.Conv2d(4, 6, 3, padding=1)
    conv.load_state_dict(none.conv.state_dict())
    assert torch.equal(none(input), conv(input))
    every = CrossConv2d(4, 6, 3, share=1, field=7, growth_rate=3.0)
    assert every.conv is None
    layer = LogPolarConv2d(4, 6, 7, growth_rate=3.0)
    layer.load_state_dict(every.log_polar.state_dict())
    assert torch.equal(every(input), layer(input))


@pytest.mark.parametrize(
    ("share", "channels", "expected"), [(0.5, 5, 2), (0.5, 7, 4), (0.25, 64, 16), (1 / 3, 10, 3), (0.01, 8, 0)]
)
def test_cross_rounds_as_python_does(share, channels, expected):
    layer = CrossConv2d(2, channels, share=share)
    assert (layer.log_polar.out_channels if layer.log_polar else 0) == expected
    assert layer(torch.zeros(1, 2, 9, 9)).shape[1] == channels


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"share": 1.5}, "share must be a number from 0 to 1; got 1.5"),
        ({"share": 0.5, "groups": 4}, "share must leave each part a multiple of groups"),
        ({"kernel_size": 4}, "padding must be given"),
        ({"kernel_size": 3, "padding": 0, "field": 3, "dilation": 2}, "cannot be kept"),
        ({"field": 4}, "field must be an odd number"),
    ],
)
def test_bad_arguments_of_cross(change, words):
    with pytest.raises(ValueError, match=words):
        CrossConv2d(**{"in_channels": 4, "out_channels": 12, **change})


@pytest.mark.parametrize(
    ("changed", "together"),
    [
        ({}, True),
        ({"bias": False, "share": 0.25}, True),
        ({"kernel_size": 5, "field": 9}, True),
        ({"stride": 2, "dilation": 2, "field": 5, "dilations": 2}, False),
        ({"padding": "same"}, True),
        ({"padding_mode": "reflect"}, False),
        ({"groups": 2, "share": 0.5}, False),
        ({"kernel_size": 7, "field": 5}, False),
        ({"out_channels": 64}, False),
        ({"reduce": "max"}, False),
    ],
)
def test_parts_of_few_channels_run_together(changed, together):
    changed = {k: v for k, v in changed.items() if k != "dilations"}
    layer = CrossConv2d(**{"in_channels": 8, "out_channels": 12, "field": 7, "growth_rate": 3.0, **changed})
    input = torch.randn(2, 8, 13, 11)
    assert (layer._together(input) is not None) == together
    parts = torch.cat([layer.conv(input), layer.log_polar(input)], 1)
    torch.testing.assert_close(layer(input), parts, atol=1e-5, rtol=1e-5)
    grad, inputs = torch.randn_like(parts), [input.requires_grad_(), *layer.parameters()]
    parts = torch.cat([layer.conv(input), layer.log_polar(input)], 1)
    for mine, theirs in zip(
        torch.autograd.grad(layer(input), inputs, grad), torch.autograd.grad(parts, inputs, grad), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_parts_that_somebody_listens_to_are_called():
    layer, seen = CrossConv2d(8, 12, field=7, growth_rate=3.0), []
    layer(torch.randn(1, 8, 9, 9))
    assert not seen
    handles = [part.register_forward_hook(lambda *_: seen.append(1)) for part in (layer.conv, layer.log_polar)]
    layer(torch.randn(1, 8, 9, 9))
    assert len(seen) == 2
    for handle in handles:
        handle.remove()
    layer(torch.randn(1, 8, 9, 9))
    assert len(seen) == 2


KINDS = {
    1: (CrossConv1d, nn.Conv1d, LogPolarConv1d),
    2: (CrossConv2d, nn.Conv2d, LogPolarConv2d),
    3: (CrossConv3d, nn.Conv3d, LogPolarConv3d),
}


@pytest.mark.parametrize("dims", KINDS)
@pytest.mark.parametrize(
    "change", [{}, {"stride": 2}, {"groups": 2, "bias": False}, {"padding_mode": "circular"}], ids=str
)
def test_the_parts_stand_side_by_side(dims, change):
    cross, square, round_ = KINDS[dims]
    layer = cross(4, 8, 3, field=5, share=0.5, dtype=torch.float64, **change)
    assert type(layer.conv) is square
    assert type(layer.log_polar) is round_
    input = torch.randn(2, 4, *(7, 6, 5)[:dims], dtype=torch.float64)
    output = layer(input)
    assert torch.equal(output[:, :4], layer.conv(input))
    assert torch.equal(output[:, 4:], layer.log_polar(input))
    plain = layer.to_conv()
    assert type(plain) is square
    torch.testing.assert_close(plain(input), output)
    torch.testing.assert_close(layer(input[0]), output[0])


@pytest.mark.parametrize("dims", KINDS)
@pytest.mark.parametrize("init", ["fresh", "project"])
def test_from_conv_in_every_dimension(dims, init):
    cross, square, _ = KINDS[dims]
    old = square(2, 8, 3, stride=2, padding=1).eval()
    new = cross.from_conv(old, field=7, init=init)
    input = torch.randn(1, 2, *(9, 8, 7)[:dims])
    assert new(input).shape == old(input).shape
    assert torch.equal(torch.cat([new.conv.bias, new.log_polar.bias]), old.bias)
    assert not new.training
    kept = torch.allclose(new(input)[:, :4], old(input)[:, :4], atol=1e-6)  # other products, other rounding
    assert kept == (init == "project")
