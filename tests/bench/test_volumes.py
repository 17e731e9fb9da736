"""The cases of volumes and points compute what they say, on both sides."""

from typing import Any

import torch

from foveal.bench import volumes


def test_both_sides_find_the_same_pairs(watch: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(volumes, "_POINTS", 500)
    list(volumes.neighbours(watch))
    (sides,) = watch.sides
    (ours,), (theirs,) = sides["ours"], sides["scipy's cKDTree"]
    assert ours() == sum(map(len, theirs()))


def test_a_volume_is_measured_in_both_formats_beside_what_it_equals(watch: Any) -> None:
    torch.manual_seed(0)
    bars = {"dense convolution": None, "3x3x3 nn.Conv3d": None}
    rows = list(volumes.log_polar(watch, shape=(1, 8, 6, 6, 6), size=5, bars=bars))
    assert [row.what for row in rows] == list(bars)
    (sides,) = watch.sides
    outputs = [call() for call in (*sides["ours"], *sides["dense convolution"])]
    assert len(outputs) == 4
    for other in outputs[1:]:
        torch.testing.assert_close(other, outputs[0], rtol=1e-4, atol=1e-5)
