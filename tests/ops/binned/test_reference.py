"""The definition of binned convolution where a device needs another way to the same numbers."""

import torch

from foveal.ops.binned.reference import _sums_in_order


def test_sums_in_one_order_are_those_of_index_add():
    """Empty bins, one of all sizes, and the one behind the last for taps of no bin."""
    taps, columns = torch.randn(3, 4, 25, dtype=torch.float64), torch.randint(0, 6, (25,))
    columns[columns == 2] = 5
    expected = torch.zeros(3, 4, 6, dtype=torch.float64).index_add_(2, columns, taps)
    torch.testing.assert_close(_sums_in_order(taps, columns, 6), expected)
