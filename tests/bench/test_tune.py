"""Tuning: what a network asks for is measured each way, and the faster way is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from foveal.bench import tune
from foveal.bench.timing import Time, Watch
from foveal.layers import LogPolarConv2d
from foveal.ops import profile
from foveal.ops.binned import cpu

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not cpu.takes(torch.zeros(1)), reason="the CPU kernels are not compiled")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    profile.forget()
    yield
    profile.forget()


def calls(dtype: torch.dtype = torch.float32) -> list[profile.Call]:
    network = torch.nn.Sequential(
        LogPolarConv2d(4, 16, 5),
        torch.nn.ReLU(),
        LogPolarConv2d(16, 16, 5, stride=2),
        LogPolarConv2d(16, 16, 5, groups=16),
    )
    return tune.calls_of([(network, torch.randn(2, 4, 9, 8))], CPU, dtype)


def test_each_shape_that_a_network_asks_for_once() -> None:
    found = calls()
    asked = [(call.part, call.shape[1:], call.plain[0], call.plain[3]) for call in found]
    forward = [
        ("forward", (4, 9, 8), [1, 1], 1),
        ("forward", (16, 9, 8), [2, 2], 1),
        ("forward", (16, 5, 4), [1, 1], 16),
    ]
    assert asked[:3] == forward
    assert asked[3:] == [("input", (16, 5, 4), [1, 1], 16), ("input", (4, 9, 8), [1, 1], 1)], (
        "strided ones have one way"
    )
    assert {call.dtype for call in calls(torch.bfloat16)} == {torch.bfloat16}


@pytest.mark.parametrize("kernel", [1.0, 1.99, 3.0])
def test_the_faster_way_is_kept_and_read(kernel: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A way that is faster by less than noise does not overrule the rule."""
    found = calls()
    runs = []

    def medians(self: Watch, sides: Any) -> dict[str, Time]:
        assert set(sides) == {"kernel", "dense"}
        results = [sides[way][0]() for way in ("kernel", "dense")]
        part = found[len(runs)].part
        values = [r[0] if isinstance(r, tuple) else r for r in results]
        if values[0] is not None:
            torch.testing.assert_close(values[0], values[1], rtol=1e-4, atol=1e-4)
        runs.append(part)
        return {"kernel": Time(kernel, 0.0), "dense": Time(2.0, 0.0)}

    monkeypatch.setattr(Watch, "medians", medians)
    content = tune.tune(found, CPU)
    assert len(runs) == len(found)
    expected = {tune._key(call): "kernel" if kernel == 1.0 or (kernel < 2 and call.rule) else "dense" for call in found}
    assert content["ways"] == expected == profile.in_force(CPU)
    again = tune.tune(found[:0], CPU)
    assert again["ways"] == expected, "other shapes are kept"
    assert again["times"] == content["times"]
