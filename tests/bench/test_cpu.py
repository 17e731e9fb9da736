"""The CPU's cases: each bar has its figure, and a run reports and keeps what was measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from foveal.bench import cpu, run
from foveal.bench.convolutions import log_polar_layer
from foveal.bench.timing import Case, Row, Watch
from foveal.ops import anisotropic_conv2d, binned_conv2d
from foveal.ops.binned import cpu as binned_cpu
from foveal.ops.sampled import cpu as sampled_cpu


def test_plain_pytorch_is_the_same_op_without_kernels() -> None:
    bins = log_polar_layer(16, 9, (2, 6), 3.0).bins
    x, w, v = torch.randn(1, 16, 9, 9), torch.randn(16, 16, 13), torch.randn(16, 16, 3, 3)
    takes = binned_cpu.takes, sampled_cpu.takes
    kernels = binned_conv2d(x, w, bins, padding=4), anisotropic_conv2d(x, v, scales=(1, 2))
    with cpu._plain_pytorch():
        assert not binned_cpu.takes(x)
        assert not sampled_cpu.takes(x)
        plain = binned_conv2d(x, w, bins, padding=4), anisotropic_conv2d(x, v, scales=(1, 2))
    torch.testing.assert_close(plain, kernels, rtol=1e-4, atol=1e-4)
    with pytest.raises(KeyboardInterrupt), cpu._plain_pytorch():
        raise KeyboardInterrupt
    assert (binned_cpu.takes, sampled_cpu.takes) == takes


def test_every_bar_has_its_figure(watch: Any) -> None:
    found = {}
    for name, entry in cpu.CASES.items():
        if not name.startswith(("memory", "bits")):
            for row in entry.measure(watch):
                if row.bar:
                    found[name, row.what.partition(";")[0]] = str(row.bar)
            watch.sides.clear()  # they hold the tensors of the case
    if missing := [
        peer for peer in ("torchvision.ops", "onnx", "onnxruntime", "scipy.spatial") if not watch.peer(peer)
    ]:
        pytest.skip(f"without {', '.join(missing)} their bars are left out")
    conv, dense, runtime, tv = "3x3 nn.Conv2d", "dense convolution", "onnxruntime DeformConv", "torchvision per scale, maximum"  # fmt: skip
    assert found == {
        ("lpsc-k9-64", conv): "<= 1.75", ("lpsc-k9-64", dense): ">= 4.5",
        ("lpsc-k9-64-train", conv): "<= 1.75", ("lpsc-k9-64-train", dense): ">= 4",
        ("lpsc-k9-256", conv): "<= 2", ("lpsc-k9-256", dense): ">= 4",
        ("lpsc-k9-64-bf16", dense): ">= 1.7", ("lpsc-k9-256-bf16", dense): ">= 4.5",
        ("lpsc-k17", dense): ">= 20", ("lpsc-k31", dense): ">= 18", ("lpsc-growth", "ours with k5"): "<= 2",
        ("lpsc-depthwise", dense): ">= 1.5", ("lpsc-authors", "the published algorithm"): ">= 1000",
        ("acn-1-64", conv): "<= 1.4", ("acn-1-64-train", conv): "<= 1.5", ("acn-1-64", runtime): ">= 2",
        ("acn-1-256", conv): "<= 1.4", ("acn-1-256-train", conv): "<= 1.5", ("acn-1-256", runtime): ">= 1.15",
        ("acn-12-64", tv): ">= 10", ("acn-12-64-train", tv): ">= 25",
        ("acn-12-256", tv): ">= 4", ("acn-12-256-train", tv): ">= 8",
        ("deform-64", "torchvision"): ">= 10", ("deform-64", runtime): ">= 2", ("deform-64-train", "torchvision"): ">= 25",
        ("deform-256", "torchvision"): ">= 4", ("deform-256", runtime): ">= 1.15", ("deform-256-train", "torchvision"): ">= 8",
        ("deform-groups", "ours without mask, one group"): "<= 1.35",
        ("deform-groups-train", "ours without mask, one group"): "<= 1.35",
        ("deform-4", "depthwise 3x3 nn.Conv2d"): "<= 4", ("deform-bf16", "ours in float32"): "<= 1.1",
        ("deform-shapes", f"snake beside {conv}"): "<= 1.4", ("deform-shapes", f"LDConv, 9 points beside {conv}"): "<= 1.4",
        ("deform-shapes", f"pinwheel beside {conv}"): "<= 1.4",
        ("deform-bf16", "error beside that of float32 rounded to bfloat16"): "<= 2",
        ("overhead", "binned_conv2d without gradient"): "<= 8", ("overhead", "binned_conv2d with gradient"): "<= 16",
        ("overhead", "sampled_conv2d without gradient"): "<= 8", ("overhead", "sampled_conv2d with gradient"): "<= 16",
        ("resnet110", "LPSC beside conventional"): "<= 1.1", ("resnet110", "LPSC-CC beside conventional"): "<= 1.25",
        ("volume-k9", dense): ">= 6", ("volume-k9", "3x3x3 nn.Conv3d"): ">= 3", ("volume-k9-train", dense): ">= 6",
        ("volume-k11", dense): ">= 11", ("volume-k11-train", dense): ">= 11",
        ("volume-k9-64", "3x3x3 nn.Conv3d"): "<= 2", ("points", "forward"): "<= 1.5",
        ("neighbours", "scipy's cKDTree"): "<= 1.5",
        ("quickstart", "log_polar on plain PyTorch"): ">= 2", ("quickstart", "anisotropic on plain PyTorch"): ">= 2",
    }  # fmt: skip


def test_extra_memory_includes_the_output(watch: Any) -> None:
    row = next(cpu._memory(watch, "log-polar 9x9", (1.3, 2.6)), None)
    if row is None:
        assert list(watch.left_out) == ["peak memory"]
    else:
        assert (row.unit, str(row.bar)) == ("x input", "<= 1.3")
        assert 1 < row.figure < 40


def test_unlike_bits_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_threads(*inputs: Tensor, **_: Any) -> Tensor:
        return anisotropic_conv2d(*inputs, scales=(1, 2)) + (torch.get_num_threads() == 4)

    assert [row.unit for row in cpu._bits(Watch(1, True))] == ["unlike"] * 5
    monkeypatch.setattr(cpu, "anisotropic_conv2d", by_threads)
    *_, row = cpu._bits(Watch(1, True))
    assert (row.figure, row.note, row.met) == (1, "output", False)
    assert torch.get_num_threads() == 1


def test_run_keeps_the_environment_and_the_threads() -> None:
    before = torch.get_num_threads()
    state = torch.get_rng_state()
    seen: list[tuple[int, int, str]] = []
    results = run("overhead", threads=2, quick=True, progress=lambda *step: seen.append(step))
    assert seen == [(0, 1, "overhead")]
    assert torch.get_num_threads() == before
    assert torch.equal(torch.get_rng_state(), state)
    facts = results["environment"]
    assert facts["command"] == "foveal bench --case 'overhead' --threads 2 --quick"
    assert (facts["threads"], facts["clock"], facts["torch"]) == (2, "wall time", torch.__version__)
    assert {"cpu", "instruction_set", "date", "amx", "python"} <= set(facts)
    assert len(results["rows"]) == 4
    for row in results["rows"]:
        assert (row["case"], row["unit"]) == ("overhead", "us")
        assert row["figure"] == pytest.approx(row["ours_ms"] * 1e3)
        assert row["figure"] > 0.1
        assert row["met"] == (row["figure"] <= float(row["bar"].removeprefix("<= ")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pattern": "lspc*"}, "case must match one of lpsc-k9-64, .*; got 'lspc\\*'"),
        ({"threads": 0}, "threads must be"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(**arguments)


def test_what_was_measured_is_kept(
    monkeypatch: pytest.MonkeyPatch, case: Callable[..., Case], printed: Callable[..., str]
) -> None:
    row = Row("something", 1.0, "x")
    broken, stopped = case(row, error=MemoryError("too small")), case(row, error=KeyboardInterrupt())
    monkeypatch.setattr(cpu, "CASES", {"a": case(row), "b": broken, "c": stopped, "d": case(row)})
    results = run()
    assert [row["case"] for row in results["rows"]] == ["a", "b", "c"]
    assert results["failed"] == {"b": "MemoryError: too small"}
    assert results["interrupted"]
    assert not run("a")["interrupted"]
    text = printed(results, 100)
    assert "failed: b: MemoryError: too small" in text
    assert "stopped before the end" in text
