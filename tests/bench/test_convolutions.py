"""What the layers are compared with is the same computation, and a peer that is not there is named."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from foveal.bench.convolutions import anisotropic, log_polar, log_polar_layer, unfold_and_select


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("depthwise", [False, True])
def test_log_polar_peers_compute_the_same(backward: bool, depthwise: bool, watch: Any) -> None:
    bars = {"3x3 nn.Conv2d": None, "dense convolution": None}
    rows = log_polar(
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
    layer = log_polar_layer(3, 9, (2, 8), 2.0)
    input = torch.randn(2, 3, 10, 10)
    torch.testing.assert_close(unfold_and_select(input, layer), layer(input), rtol=1e-4, atol=1e-5)
    with_empty_bins = log_polar_layer(2, 5, (2, 8), 2.0)
    assert (with_empty_bins.population == 1).any()
    input = torch.randn(1, 2, 7, 7)
    expected = with_empty_bins(input)
    torch.testing.assert_close(unfold_and_select(input, with_empty_bins), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scales", [(1,), (1, 2)])
@pytest.mark.parametrize("backward", [False, True])
def test_anisotropic_peers_compute_the_same(scales: tuple[int, ...], backward: bool, watch: Any) -> None:
    names = ["torchvision per scale, maximum"]
    for package in ("torchvision.ops", "onnxruntime"):
        try:
            importlib.import_module(package)
        except Exception as error:
            pytest.skip(f"{package} does not load: {error}")
    if scales == (1,) and not backward:
        names.append("onnxruntime DeformConv")
    list(anisotropic(watch, shape=(2, 4, 9, 7), scales=scales, bars=dict.fromkeys(names), backward=backward))
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


@pytest.mark.parametrize("error", [ModuleNotFoundError("No module named 'x'"), RuntimeError("torchvision::nms\nmore")])
def test_a_peer_that_is_not_there_is_left_out_by_name(
    monkeypatch: pytest.MonkeyPatch, error: Exception, watch: Any
) -> None:
    find = importlib.import_module

    def missing(name: str, package: str | None = None) -> Any:
        if name.startswith(("torchvision", "onnx")):
            raise error
        return find(name, package)

    monkeypatch.setattr(importlib, "import_module", missing)
    bars = {"3x3 nn.Conv2d": None, "onnxruntime DeformConv": None, "torchvision per scale, maximum": None}
    rows = list(anisotropic(watch, shape=(1, 4, 5, 5), scales=(1,), bars=bars))
    assert [row.what for row in rows] == ["3x3 nn.Conv2d"]
    reason = "not installed" if isinstance(error, ModuleNotFoundError) else "does not load: torchvision::nms"
    assert watch.left_out == dict.fromkeys(("torchvision", "onnx", "onnxruntime"), reason)
