"""What both ops check and normalise."""

import numpy as np
import pytest
import torch

from foveal.ops import arguments


@pytest.mark.parametrize(
    ("value", "dims", "found"),
    [(3, 2, (3, 3)), ((1, 2), 2, (1, 2)), (np.array([1, 2, 3]), 3, (1, 2, 3)), (np.int64(2), 3, (2, 2, 2))],
)
def test_numbers(value, dims, found):
    assert arguments.numbers("stride", value, dims, at_least=1) == found


@pytest.mark.parametrize("value", [0, (1, 0), (1, 2, 3), True, 1.5, "1", None])
def test_what_is_no_number_or_pair(value):
    with pytest.raises(ValueError, match="stride must be a whole number of at least 1 or a pair of them; got "):
        arguments.pair("stride", value, at_least=1)
    with pytest.raises(ValueError, match=r"or three of them; got \(1, 2\)"):
        arguments.numbers("stride", (1, 2), 3, at_least=1)


def test_padding_is_what_stands_before_and_after():
    assert arguments.split_padding((1, 2), (4, 4), (2, 2)) == ((1, 2), (1, 2))
    assert arguments.split_padding("valid", (4, 4, 4), (1, 1, 1)) == ((0, 0, 0), (0, 0, 0))
    assert arguments.split_padding("same", (4, 3), (1, 1)) == ((2, 1), (2, 2))
    with pytest.raises(ValueError, match=r"padding='same' needs stride 1; got stride \(1, 2\)"):
        arguments.split_padding("same", (4, 4), (1, 2))
    padded = arguments.pad_after(torch.ones(1, 1, 2, 2), (2, 1), (2, 2))
    assert padded.shape == (1, 1, 2, 3)
    assert padded[..., -1].eq(0).all()


@pytest.mark.parametrize(
    ("shape", "memory_format"),
    [((2, 3, 4, 5), torch.channels_last), ((2, 3, 4, 5, 6), torch.channels_last_3d)],
)
def test_the_layout_is_the_inputs(shape, memory_format):
    assert arguments.layout(torch.ones(shape)) == torch.contiguous_format
    last = torch.ones(shape).contiguous(memory_format=memory_format)
    assert arguments.layout(last) == memory_format
    assert torch.func.vmap(lambda t: t * (arguments.layout(last) == torch.contiguous_format))(torch.ones(1)) == 1
