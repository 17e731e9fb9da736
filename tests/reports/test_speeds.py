"""Rates and times keep two digits or three, however small or large."""

import pytest

from foveal.reports.speeds import milliseconds, per_second


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.4, "0.400"),
        (0.0321, "0.0321"),
        (1.0, "1.00"),
        (9.996, "10.0"),
        (99.96, "100"),
        (1452.4, "1,452"),
        (None, "–"),
    ],
)
def test_rates(value, text):
    assert per_second(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (4890.246, "4.89 s"),
        (999.6, "1.00 s"),
        (999.4, "999 ms"),
        (0.00123, "0.00123 ms"),
        (250_000, "250 s"),
        (None, "–"),
    ],
)
def test_times(value, text):
    assert milliseconds(value) == text
