"""How it is measured: in turn, by the median, and what a figure is beside its bar."""

from __future__ import annotations

import statistics

import pytest

from foveal.bench.timing import Bar, Call, Row, Time, Watch, against


class Clock:
    """A clock that moves only when something is called."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def taking(self, name: str, *seconds: float) -> Call:
        durations = iter(seconds[:-1])

        def call() -> None:
            self.calls.append(name)
            self.now += next(durations, seconds[-1])

        return call


def test_medians_of_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    watch = Watch(threads=1, quick=False)
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
    watch = Watch(threads=2, quick=True)
    monkeypatch.setattr(watch, "clock", lambda: clock.now)
    times = watch.medians({"ours": [clock.taking("a", 1e-5)]})
    assert times["ours"].seconds == pytest.approx(1e-5)
    assert times["ours"].spread == pytest.approx(0, abs=1e-6)
    assert (len(clock.calls) - 4) % 200 == 0


def test_figures() -> None:
    times = {"ours": Time(0.2, 0.01), "a": Time(0.1, 0.02), "b": Time(0.8, 0.0)}
    bars = {"a": Bar(1.75, True), "b": Bar(4.5, False), "not measured": None}
    slower, faster = against(times, bars)
    assert (slower.figure, slower.unit, slower.met, slower.spread) == (2.0, "x", False, 0.02)
    assert (faster.figure, faster.unit, faster.met, faster.ours_ms, faster.other_ms) == (
        4.0,
        "x faster",
        False,
        200,
        800,
    )
    assert Row("", 1.75, "x", Bar(1.75, True)).met
    assert Row("", 4.5, "x", Bar(4.5, False)).met
    assert Row("", 4.5, "x").met is None


def test_clocks_measure_something() -> None:
    for threads in (1, 2):
        (taken,) = Watch(threads, quick=True).medians({"ours": [lambda: statistics.fmean(range(10_000))]}).values()
        assert 1e-5 < taken.seconds < 1
