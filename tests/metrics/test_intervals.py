"""Confidence intervals of counted shares, against printed ones."""

import pytest

from foveal.metrics.intervals import wilson_interval


def test_wilson_interval() -> None:
    # Newcombe 1998, Table I: 81 of 263 and 0 of 20, method 3.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(20, 20)[1] == 1.0
    for correct, n in ((-1, 5), (6, 5), (0, 0)):
        with pytest.raises(ValueError, match="correct and n must be counts"):
            wilson_interval(correct, n)
