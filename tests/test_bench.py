"""The benchmark: what it compares is the same computation, what it reports is what was measured."""

from __future__ import annotations

import importlib
import io
import json
import socket
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from foveal import bench
from foveal.ops import anisotropic_conv2d, binned_conv2d
from foveal.ops.binned import cpu as binned_cpu
from foveal.ops.sampled import cpu as sampled_cpu

NOT_THE_SAME = ("3x3 nn.Conv2d", "matrix product of its size", "ours with k5", "conventional", "LPSC", "LPSC-CC")


class Untimed(bench._Watch):
    """Keeps the sides instead of measuring them; each is told to take one second."""

    def __init__(self) -> None:
        super().__init__(threads=1, quick=True)
        self.sides: list[bench.Sides] = []

    def medians(self, sides: bench.Sides) -> dict[str, bench._Time]:
        self.sides.append(sides)
        return dict.fromkeys(sides, bench._Time(1.0, 0.0))


def case(*rows: bench.Row, error: BaseException | None = None) -> bench.Case:
    def measure(watch: bench._Watch) -> Iterator[bench.Row]:
        yield from rows
        if error:
            raise error

    return bench.Case("a title", measure)


def printed(results: dict[str, Any], width: int) -> str:
    file = io.StringIO()
    bench.print_table(results, Console(file=file, width=width, highlight=False))
    return file.getvalue()


# ---- what is compared ----


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("depthwise", [False, True])
def test_log_polar_peers_compute_the_same(backward: bool, depthwise: bool) -> None:
    watch = Untimed()
    bars = {"3x3 nn.Conv2d": None, "dense convolution": None}
    rows = bench._log_polar(
        watch, shape=(2, 16, 12, 11), size=9, bars=bars, backward=backward, depthwise=depthwise
    )  # fmt: skip
    assert [row.what for row in rows] == list(bars)
    ways = watch.sides[0]["ours"] + watch.sides[0]["dense convolution"]
    assert len(ways) == 4, "both in both memory formats"
    if backward:
        assert [len(way()) for way in ways] == [2] * 4, "gradients of input and weight"  # type: ignore[arg-type]
    else:
        first, *others = (way() for way in ways)
        for other in others:
            torch.testing.assert_close(other, first, rtol=1e-4, atol=1e-4)


def test_published_algorithm_computes_the_same() -> None:
    layer = bench._log_polar_layer(3, 9, (2, 8), 2.0)
    input = torch.randn(2, 3, 10, 10)
    torch.testing.assert_close(bench._unfold_and_select(input, layer), layer(input), rtol=1e-4, atol=1e-5)
    with_empty_bins = bench._log_polar_layer(2, 5, (2, 8), 2.0)
    assert (with_empty_bins.population == 1).any()
    input = torch.randn(1, 2, 7, 7)
    expected = with_empty_bins(input)
    torch.testing.assert_close(bench._unfold_and_select(input, with_empty_bins), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scales", [(1,), (1, 2)])
@pytest.mark.parametrize("backward", [False, True])
def test_anisotropic_peers_compute_the_same(scales: tuple[int, ...], backward: bool) -> None:
    names = ["torchvision per scale, maximum"]
    for package in ("torchvision.ops", "onnxruntime"):
        try:
            importlib.import_module(package)
        except Exception as error:
            pytest.skip(f"{package} does not load: {error}")
    if scales == (1,) and not backward:
        names.append("onnxruntime DeformConv")
    watch = Untimed()
    list(bench._anisotropic(watch, shape=(2, 4, 9, 7), scales=scales, bars=dict.fromkeys(names), backward=backward))
    (sides,) = watch.sides
    assert list(sides) == ["ours", *names]
    if backward:
        kinds = [tuple(tensor.shape for tensor in way()) for ways in sides.values() for way in ways]  # type: ignore[attr-defined]
        assert kinds == [((2, 4, 9, 7), (4, 4, 3, 3), (2, 18 * len(scales), 9, 7))] * 4
    else:
        ours = sides["ours"][0]()
        for name in names:
            for way in sides[name]:
                found = way()
                found = torch.as_tensor(found[0]) if isinstance(found, list) else found
                torch.testing.assert_close(found, ours, rtol=1e-4, atol=1e-5)


def test_plain_pytorch_is_the_same_op_without_kernels() -> None:
    bins = bench._log_polar_layer(16, 9, (2, 6), 3.0).bins
    x, w, v = torch.randn(1, 16, 9, 9), torch.randn(16, 16, 13), torch.randn(16, 16, 3, 3)
    takes = binned_cpu.takes, sampled_cpu.takes
    kernels = binned_conv2d(x, w, bins, padding=4), anisotropic_conv2d(x, v, scales=(1, 2))
    with bench._plain_pytorch():
        assert not binned_cpu.takes(x)
        assert not sampled_cpu.takes(x)
        plain = binned_conv2d(x, w, bins, padding=4), anisotropic_conv2d(x, v, scales=(1, 2))
    torch.testing.assert_close(plain, kernels, rtol=1e-4, atol=1e-4)
    with pytest.raises(KeyboardInterrupt), bench._plain_pytorch():
        raise KeyboardInterrupt
    assert (binned_cpu.takes, sampled_cpu.takes) == takes


def test_every_bar_has_its_figure() -> None:
    found = {}
    for name, entry in bench.CASES.items():
        if not name.startswith(("memory", "bits")):
            for row in entry.measure(Untimed()):
                if row.bar:
                    found[name, row.what.partition(";")[0]] = str(row.bar)
    if missing := [peer for peer in ("torchvision.ops", "onnx", "onnxruntime") if not Untimed().peer(peer)]:
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
        ("overhead", "binned_conv2d without gradient"): "<= 8", ("overhead", "binned_conv2d with gradient"): "<= 16",
        ("overhead", "sampled_conv2d without gradient"): "<= 8", ("overhead", "sampled_conv2d with gradient"): "<= 16",
        ("resnet110", "LPSC beside conventional"): "<= 1.1", ("resnet110", "LPSC-CC beside conventional"): "<= 1.25",
        ("quickstart", "log_polar on plain PyTorch"): ">= 2", ("quickstart", "anisotropic on plain PyTorch"): ">= 2",
    }  # fmt: skip


def test_extra_memory_includes_the_output() -> None:
    watch = Untimed()
    row = next(bench._memory(watch, "log-polar 9x9", (1.3, 2.6)), None)
    if row is None:
        assert list(watch.left_out) == ["peak memory"]
    else:
        assert (row.unit, str(row.bar)) == ("x input", "<= 1.3")
        assert 1 < row.figure < 40


def test_unlike_bits_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_threads(*inputs: Tensor, **_: Any) -> Tensor:
        return anisotropic_conv2d(*inputs, scales=(1, 2)) + (torch.get_num_threads() == 4)

    assert [row.unit for row in bench._bits(bench._Watch(1, True))] == ["unlike"] * 5
    monkeypatch.setattr(bench, "anisotropic_conv2d", by_threads)
    *_, row = bench._bits(bench._Watch(1, True))
    assert (row.figure, row.note, row.met) == (1, "output", False)
    assert torch.get_num_threads() == 1


# ---- how it is measured ----


class Clock:
    """A clock that moves only when something is called."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def taking(self, name: str, *seconds: float) -> bench.Call:
        durations = iter(seconds[:-1])

        def call() -> None:
            self.calls.append(name)
            self.now += next(durations, seconds[-1])

        return call


def test_medians_of_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    watch = bench._Watch(threads=1, quick=False)
    monkeypatch.setattr(watch, "clock", lambda: clock.now)
    times = watch.medians(
        {
            "ours": [clock.taking("a", 9.0, 0.7, 0.5, 0.5, 0.5, 50.0, 0.5), clock.taking("b", 0.6)],
            "other": [clock.taking("c", 0.1), clock.taking("d", 0.21)],
        }
    )
    assert times["ours"].seconds == pytest.approx(0.5), "the better way, and no outlier"
    assert times["other"].seconds == pytest.approx(0.1)
    assert clock.calls[:16] == [name for name in "abcd" for _ in range(4)], "one call to warm up, three to plan by"
    turns = clock.calls[16:]
    assert turns == ["a", "b", "c"] * (len(turns) // 3), "in turn; d is more than twice as slow as c"
    assert len(turns) // 3 == 6, "about eight seconds"


def test_short_calls_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    watch = bench._Watch(threads=2, quick=True)
    monkeypatch.setattr(watch, "clock", lambda: clock.now)
    times = watch.medians({"ours": [clock.taking("a", 1e-5)]})
    assert times["ours"].seconds == pytest.approx(1e-5)
    assert times["ours"].spread == pytest.approx(0, abs=1e-6)
    assert (len(clock.calls) - 4) % 200 == 0


def test_figures() -> None:
    times = {"ours": bench._Time(0.2, 0.01), "a": bench._Time(0.1, 0.02), "b": bench._Time(0.8, 0.0)}
    bars = {"a": bench.Bar(1.75, True), "b": bench.Bar(4.5, False), "not measured": None}
    slower, faster = bench._against(times, bars)
    assert (slower.figure, slower.unit, slower.met, slower.spread) == (2.0, "x", False, 0.02)
    assert (faster.figure, faster.unit, faster.met, faster.ours_ms, faster.other_ms) == (
        4.0,
        "x faster",
        False,
        200,
        800,
    )
    assert bench.Row("", 1.75, "x", bench.Bar(1.75, True)).met
    assert bench.Row("", 4.5, "x", bench.Bar(4.5, False)).met
    assert bench.Row("", 4.5, "x").met is None


def test_clocks_measure_something() -> None:
    for threads in (1, 2):
        (taken,) = (
            bench._Watch(threads, quick=True).medians({"ours": [lambda: statistics.fmean(range(10_000))]}).values()
        )
        assert 1e-5 < taken.seconds < 1


# ---- a run ----


def test_run_keeps_the_environment_and_the_threads() -> None:
    before = torch.get_num_threads()
    state = torch.get_rng_state()
    seen: list[tuple[int, int, str]] = []
    results = bench.run("overhead", threads=2, quick=True, progress=lambda *step: seen.append(step))
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
        bench.run(**arguments)


def test_what_was_measured_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    row = bench.Row("something", 1.0, "x")
    broken, stopped = case(row, error=MemoryError("too small")), case(row, error=KeyboardInterrupt())
    monkeypatch.setattr(bench, "CASES", {"a": case(row), "b": broken, "c": stopped, "d": case(row)})
    results = bench.run()
    assert [row["case"] for row in results["rows"]] == ["a", "b", "c"]
    assert results["failed"] == {"b": "MemoryError: too small"}
    assert results["interrupted"]
    assert not bench.run("a")["interrupted"]
    text = printed(results, 100)
    assert "failed: b: MemoryError: too small" in text
    assert "stopped before the end" in text


@pytest.mark.parametrize("error", [ModuleNotFoundError("No module named 'x'"), RuntimeError("torchvision::nms\nmore")])
def test_a_peer_that_is_not_there_is_left_out_by_name(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    find = importlib.import_module

    def missing(name: str, package: str | None = None) -> Any:
        if name.startswith(("torchvision", "onnx")):
            raise error
        return find(name, package)

    monkeypatch.setattr(importlib, "import_module", missing)
    watch = Untimed()
    bars = {"3x3 nn.Conv2d": None, "onnxruntime DeformConv": None, "torchvision per scale, maximum": None}
    rows = list(bench._anisotropic(watch, shape=(1, 4, 5, 5), scales=(1,), bars=bars))
    assert [row.what for row in rows] == ["3x3 nn.Conv2d"]
    reason = "not installed" if isinstance(error, ModuleNotFoundError) else "does not load: torchvision::nms"
    assert watch.left_out == dict.fromkeys(("torchvision", "onnx", "onnxruntime"), reason)


@pytest.mark.parametrize("width", [80, 100, 200])
def test_table(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    rows = [
        bench.Row("a peer with a long name " * 3, 24.127, "x faster", bench.Bar(20, False), 1.2345, 1858.2, 0.01),
        bench.Row("slow", 3.0, "x", bench.Bar(1.75, True), 3.0, 1.0, 0.0, "12 against 34 images/s"),
        bench.Row("count", 0, "unlike"),
    ]
    monkeypatch.setattr(bench, "CASES", {"x": case(*rows)})
    text = printed(bench.run(), width)
    assert max(map(len, text.splitlines())) <= min(width, 100)
    assert "x  a title" in text
    assert "1 of 2 bars met" in text
    words = text.split()
    for word in ("24.1", "1.23", "1,858", "3.00", ">=", "<=", "1.75"):
        assert word in words
    assert "NOT MET" in text
    assert "0 unlike" in text


def test_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "CASES", {"x": case(bench.Row("é", 1.5, "x", bench.Bar(2, True), 1.0, 2.0, 0.1))})
    results = bench.run()
    bench.write(results, tmp_path / "out.json")
    text = (tmp_path / "out.json").read_text(encoding="utf-8")
    assert json.loads(text) == results
    assert socket.gethostname() not in text
    assert str(Path.home()) not in text
    assert printed(json.loads(text), 100) == printed(results, 100), "the table can be made from the file"


def test_checked_in_results_have_the_shape_of_a_run() -> None:
    files = list((Path(__file__).parent.parent / "benchmarks" / "results").glob("*.json"))
    assert len(files) >= 1
    for file in files:
        results = json.loads(file.read_text(encoding="utf-8"))
        assert set(results) == {"environment", "rows", "left_out", "failed", "interrupted"}
        assert not results["interrupted"]
        assert {row["case"] for row in results["rows"]} == set(bench.CASES)
        assert "bars met" in printed(results, 100)
