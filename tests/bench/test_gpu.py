"""The benchmark of the GPU kernels, as far as it goes without one: peers compute the same, counts and limits are right."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from foveal.bench import gpu, run_gpu
from foveal.bench.timing import Sides, at_least

SHAPE = (2, 16, 12, 11)
SIX = (2, 6, 12, 11)


def same(sides: Sides, names: tuple[str, ...], tolerance: float) -> None:
    first, *others = (way() for name in names for way in sides[name])
    assert len(others) >= 2 * len(names) - 1
    for other in others:
        torch.testing.assert_close(other, first, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("backward", [False, True])
def test_log_polar_peers_compute_the_same(watch: Any, backward: bool) -> None:
    rows = list(gpu._log_polar(watch, shape=SHAPE, size=9, bars={}, dtype=torch.float32, backward=backward))
    (sides,) = watch.sides
    assert set(sides) == {"ours", gpu.DENSE, gpu.PLAIN, gpu.REFERENCE}
    if backward:
        assert [len(way()) for ways in sides.values() for way in ways] == [2] * 8, "gradients of input and weight"  # type: ignore[arg-type]
    else:
        same(sides, ("ours", gpu.DENSE, gpu.REFERENCE), 1e-4)
    assert {row.what for row in rows} == {*sides, "achieved", "least bytes moved"} - {"ours"}


def test_anisotropic_peers_compute_the_same(watch: Any, torchvision: Any) -> None:
    bars = {gpu.PER_SCALE: at_least(4)}
    rows = list(gpu._anisotropic(watch, shape=SHAPE, bars=bars, dtype=torch.float32))
    same(watch.sides[0], ("ours", gpu.PER_SCALE), 1e-4)
    assert [str(row.bar) for row in rows if row.bar] == [">= 4"]


@pytest.mark.parametrize("levels", [(2, 6), None])
@pytest.mark.parametrize("backward", [False, True])
def test_depthwise_peers_compute_the_same(watch: Any, levels: tuple[int, int] | None, backward: bool) -> None:
    bars = {gpu.DENSE: at_least(0.95), gpu.FORWARD: at_least(0)}
    given: dict[str, Any] = {"shape": SIX, "size": 9, "levels": levels, "dtype": torch.float32}
    rows = list(gpu._depthwise(watch, **given, bars=bars, backward=backward))
    (sides,) = watch.sides
    if backward:
        shapes = [
            [tuple(part.shape) for part in way()] for name in ("ours", gpu.DENSE, gpu.WEIGHT) for way in sides[name]
        ]  # type: ignore[attr-defined]
        columns = 13 if levels else 81
        assert shapes == 2 * [[SIX, (6, 1, columns)]] + 2 * [[SIX, (6, 1, 9, 9)]] + [[(0,), (6, 1, columns)]]
        assert [(row.what, str(row.bar)) for row in rows] == [(gpu.DENSE, ">= 0.95"), (gpu.FORWARD, ">= 0")]
    else:
        same(sides, ("ours", gpu.DENSE), 1e-4)
        assert [row.what for row in rows] == [gpu.DENSE, gpu.SEVEN, "least bytes moved"]


def test_the_deterministic_mode_is_measured_in_it(watch: Any) -> None:
    (row,) = gpu._deterministic(watch, SHAPE)
    assert str(row.bar) == "<= 2"
    modes = []
    for ways in watch.sides[0].values():
        handle = ways[0]
        given, ordered = handle.args  # type: ignore[attr-defined]
        given[0].register_hook(lambda grad: modes.append(torch.are_deterministic_algorithms_enabled()))
        handle()
        assert torch.are_deterministic_algorithms_enabled(), "put back"
        assert modes.pop() is ordered


def test_counts_of_a_layer() -> None:
    """A log-polar layer with 13 columns on 2 maps of 3 x 5 pixels and 4 channels, in halves."""
    operations, moved = gpu.work((2, 4, 3, 5), 4 * 4 * 13, torch.bfloat16, backward=False)
    assert operations == 2 * 30 * 4 * 4 * 13
    assert moved == 2 * (30 * 4 + 30 * 4 + 4 * 4 * 13)
    operations, moved = gpu.work((2, 4, 3, 5), 4 * 4 * 13, torch.bfloat16, backward=True, extra=10)
    assert operations == 3 * 2 * 30 * 4 * 4 * 13
    assert moved == 2 * (5 * 30 * 4 + 3 * 4 * 4 * 13) + 3 * 40


def test_share_of_the_roofline() -> None:
    card = gpu.CARDS["H200"]
    rows = list(gpu.achieved(2.0, card.halves, 1e12, torch.bfloat16, "NVIDIA H200"))
    assert [(row.what, row.unit) for row in rows] == [
        ("achieved", "TFLOP/s"), ("least bytes moved", "GB/s"), ("of the roofline", "x"),
    ]  # fmt: skip
    assert rows[0].figure == pytest.approx(card.halves / 2e12)
    assert rows[1].figure == 500
    assert rows[2].figure == pytest.approx(0.5), "products bound it"
    bound = list(gpu.achieved(2.0, 1e9, card.memory, torch.bfloat16, "NVIDIA H200"))[2]
    assert bound.figure == pytest.approx(0.5), "memory bounds it"
    assert len(list(gpu.achieved(2.0, 1e9, 1e9, torch.bfloat16, "another card"))) == 2


def test_the_bars_that_were_set() -> None:
    titles = {name: case.title for name, case in gpu.CASES.items()}
    assert len(titles) == 6 + 24 + 8 + 8 + 1
    lpsc, acn = ("lpsc-k9", "lpsc-k13", "lpsc-k31"), ("acn-256-bfloat16", "acn-256-float32")
    found = {}
    for name in (*lpsc, *(f"{name}-train" for name in lpsc), *acn, *(f"{name}-train" for name in acn)):
        found[name] = sorted(map(str, gpu.CASES[name].measure.keywords["bars"].values()))  # type: ignore[attr-defined]
    assert found == {
        **{f"lpsc-{k}{t}": [bar] for k, bar in (("k9", ">= 1.5"), ("k13", ">= 3.5"), ("k31", ">= 8")) for t in ("", "-train")},
        "acn-256-bfloat16": ["<= 3", ">= 8"], "acn-256-bfloat16-train": ["<= 3.5", ">= 8"],
        "acn-256-float32": [">= 4"], "acn-256-float32-train": [">= 4"],
    }  # fmt: skip
    assert all("never slower" in title for name, title in titles.items() if name.startswith("rule"))
    assert "8x128x128x128" in titles["lpsc-k31-train"]


@pytest.fixture
def page() -> dict[str, Any]:
    return runpy.run_path(str(Path(__file__).parent.parent.parent / "docs" / "gpu.py"))


def test_the_page_is_what_its_script_makes(page: dict[str, Any]) -> None:
    assert page["PAGE"].read_text() == page["page"]()
    assert "not measured" in page["table"]() or page["cards"]()


def test_a_card_of_which_some_was_measured(page: dict[str, Any], tmp_path: Path) -> None:
    row = {"case": "lpsc-k9", "title": "log-polar", "what": "dense", "ours_ms": 0.5, "figure": 2.0, "unit": "x faster"}
    run = {
        "state": "finished",
        "epochs": 3,
        "test_accuracy": 0.5,
        "best_test_accuracy": 0.625,
        "train_images_per_s": 1e4,
    }
    of_row = {"title": "AlexNet", "published": None, "differs": ["train.epochs 3 instead of 164"]}
    files: dict[str, Any] = {
        "bench": {
            "environment": {"gpu": "A card", "torch": "2.11.0", "triton": "3.6.0"},
            "rows": [{**row, "bar": ">= 1.5", "met": True}],
            "failed": {"lpsc-k13": "RuntimeError: no"},
        },
        "tests": {"passed": ["a", "b"], "failed": {"tests/x.py::c": ""}, "finished": False},
        "train": {
            "jobs": [],
            "tables": {"t": {"rows": [{**of_row, "runs": [run, {**run, "state": "unfinished"}]}]}, "u": "nothing yet"},
        },
    }
    for part, content in files.items():
        (tmp_path / "card").mkdir(exist_ok=True)
        (tmp_path / "card" / f"{part}.json").write_text(json.dumps(content))
    page["cards"].__globals__["RESULTS"] = tmp_path
    lines = page["table"]().splitlines()
    for line in (
        "### A card, PyTorch 2.11.0, Triton 3.6.0",
        "smoke: not measured",
        "`pytest -m gpu`: 2 passed, 1 failed, cut off.",
        "- failed: `tests/x.py::c`",
        "| log-polar | dense | 0.5 | 2 x faster | >= 1.5 | met |",
        f"| {gpu.CASES['lpsc-k13'].title} | | | failed: RuntimeError: no | | |",
        f"| {gpu.CASES['lpsc-k31'].title} | | | not measured | | |",
        "| AlexNet; train.epochs 3 instead of 164, 3 epochs | 1 | 50.00 | 62.50 |  | 10,000 |",
    ):
        assert line in lines, line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match=r"device must be one that PyTorch finds; got cuda.*--device cpu"):
        run_gpu()


@pytest.mark.gpu
def test_a_case_on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    torch.use_deterministic_algorithms(False)
    try:
        found = run_gpu("lpsc-k9", quick=True)
    finally:
        torch.use_deterministic_algorithms(True)
    assert not found["failed"]
    assert found["environment"]["gpu"] == torch.cuda.get_device_name(0)
    assert {row["unit"] for row in found["rows"]} >= {"x faster", "TFLOP/s", "GB/s"}
