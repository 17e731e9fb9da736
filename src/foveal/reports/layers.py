"""Pictures of the layers of a table's trained networks, and what one output position of each network sees."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foveal.analysis import (
    draw_bins,
    draw_kernels,
    draw_receptive_field,
    draw_taps,
    draw_winning_scale,
    effective_receptive_field,
    to_data_uri,
)
from foveal.training.saved import load_data, load_run, one_line

_MOST_PLACES = 3  # layers drawn for each row
_SAMPLES = 32  # test images that offsets and receptive fields are measured on
_SHOWN = 4  # of them
_PIXELS = _SAMPLES * 96 * 96  # of all of them together: of larger images fewer are taken


def pictures(out: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """For each row the pictures of its layers, and the receptive fields of all at one place."""
    loaded = [_load(out, row) for row in rows]
    models = [found["model"] for found in loaded if found["model"] is not None]
    places = _places(models)
    place = None
    with contextlib.suppress(Exception):
        place = _last_map([found for found in loaded if isinstance(found["images"], Tensor)])
    if place is None:
        shared = [place for place in places if all(_at(model, place) is not None for model in models)]
        place = shared[-1] if shared else None
    sections: list[dict[str, Any]] = []
    fields = []
    for row, found in zip(rows, loaded, strict=True):
        problems, layers, mine = list(found["problems"]), [], []
        if found["model"] is not None:
            mine = [name for name in places or _first_conv(found["model"]) if _at(found["model"], name) is not None]
            for name in mine[:_MOST_PLACES]:
                with _noted(problems, name):
                    layers.append(_layer(name, _at(found["model"], name), found))
            if place is not None and isinstance(found["images"], Tensor):
                with _noted(problems, f"receptive field of {place}"):
                    fields.append(_field(row, place, found["model"], found["images"]))
        cases: list[dict[str, str]] = []
        if found["task"] is not None:
            with _noted(problems, "results on test images"):
                for figure, text in found["task"].draw(found["model"], *found["data"]):
                    cases.append({"src": to_data_uri(figure, "png"), "text": text})
        head, more = getattr(found["task"], "drawn", ""), mine[_MOST_PLACES:]
        sections.append({"layers": layers, "problems": problems, "more": more, "cases": cases, "head": head})
    return {"rows": sections, "field": {"place": place, "fields": fields} if fields else None}


def _load(out: Path, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row's trained network, of its first seed that has one, and test images for it."""
    found: dict[str, Any] = {"model": None, "images": None, "task": None, "problems": []}
    for run in row["runs"]:
        if run["state"] == "finished" and found["model"] is None:
            with _noted(found["problems"], f"the network of {run['folder']}"):
                recipe, found["model"] = load_run(out / run["folder"])
            if found["model"] is not None:
                with _noted(found["problems"], "sampling points and receptive fields on test images"):
                    dataset, preset = load_data(recipe, "test", out / run["folder"])
                    found["task"], found["data"] = recipe.make_task(), (dataset, preset)
                    images, labels = next(iter(_tested(found, 4 * _SAMPLES)))
                    if not isinstance(
                        images, Tensor
                    ):  # of sizes of their own, which the network's backbone gets as one
                        if (backbone := getattr(found["model"], "backbone", None)) is not None:
                            found["images"], found["targets"] = next(iter(_tested(found, _SHOWN)))
                            found["backdrop"] = _input_of(backbone, found)
                        continue
                    count = max(_SHOWN, min(_SAMPLES, _PIXELS // images[0, 0].numel()))
                    order = _varied(labels) if isinstance(labels, Tensor) else list(range(len(images)))
                    found["images"] = found["backdrop"] = images[order[:count]]
    return found


def _tested(found: Mapping[str, Any], batch_size: int) -> Any:
    """Batches of a row's test images."""
    how: dict[str, Any] = {"train": False, "device": torch.device("cpu"), "workers": 0}
    return found["task"].batches(*found["data"], batch_size=batch_size, seed=0, epoch=0, **how)


def _varied(labels: Tensor) -> list[int]:
    """Indices that go through the classes in turn."""
    seen: dict[int, int] = {}
    keys = []
    for index, label in enumerate(labels.tolist()):
        keys.append((seen.get(label, 0), index))
        seen[label] = seen.get(label, 0) + 1
    return [index for _, index in sorted(keys)]


@contextlib.contextmanager
def _noted(problems: list[str], what: str) -> Iterator[None]:
    """A picture that fails is named on the page; the table must come whatever a network does."""
    try:
        yield
    except Exception as error:
        problems.append(f"{what} cannot be shown: {one_line(error)}")


def _places(models: Sequence[nn.Module]) -> list[str]:
    """Names of the modules that are log-polar or anisotropic in any of the networks, in their order."""
    names = {
        name.removesuffix(".log_polar"): None
        for model in models
        for name, module in model.named_modules()
        if hasattr(module, "bins") or hasattr(module, "taps")
    }
    order = {name: k for model in reversed(models) for k, (name, _) in enumerate(model.named_modules())}
    return sorted(names, key=lambda name: order.get(name, 0))


def _first_conv(model: nn.Module) -> list[str]:
    """Its name, to be drawn where no network has another kind of layer."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)][:1]


def _last_map(loaded: Sequence[Mapping[str, Any]]) -> str | None:
    """The last module that weighs a map in all networks and gives one of more than one position: what a pooling behind it
    sees is another field."""
    if not loaded:
        return None
    common = set.intersection(
        *({name for name, m in found["model"].named_modules() if _weighs(m)} for found in loaded)
    ) - {""}
    last = None

    def note(name: str, output: Any) -> None:
        nonlocal last
        if isinstance(output, Tensor) and output.ndim == 4 and output[0, 0].numel() > 1:
            last = name

    model = loaded[0]["model"]
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda _, __, output, name=name: note(name, output))
        for name in common
    ]
    try:
        with torch.no_grad():
            model(loaded[0]["images"][:1])
    finally:
        for hook in hooks:
            hook.remove()
    return last


def _weighs(module: nn.Module) -> bool:
    return all(hasattr(module, key) for key in ("in_channels", "out_channels", "kernel_size"))


def _at(model: nn.Module, name: str) -> nn.Module | None:
    return dict(model.named_modules()).get(name)


def _layer(name: str, module: Any, found: Mapping[str, Any]) -> dict[str, Any]:
    """One layer: what it is, pictures, and how far its taps move."""
    figures: list[dict[str, str]] = []
    halves = ("log_polar", "conv") if hasattr(module, "log_polar") else ()
    parts = {f"{name}.{half}": getattr(module, half) for half in halves if getattr(module, half) is not None}
    parts = parts or {name: module}
    for of, part in parts.items():
        if hasattr(part, "bins"):
            text = f"Bins of {of}: taps with one number share one weight"
            figures.append({"src": to_data_uri(draw_bins(part)), "text": text, "kind": "small"})
    offsets: list[dict[str, Any]] = []
    if hasattr(module, "taps") and found["images"] is not None:
        seen = _input_of(module, found)
        few, backdrop = seen[:_SHOWN], found["backdrop"][:_SHOWN]
        taps = draw_taps(module, few, image=backdrop)
        text = "Where output positions (+) read their input, on test images"
        figures.append({"src": to_data_uri(taps, "png"), "text": text, "kind": "wide"})
        if module.fuse == "max" and not isinstance(module.scales, str) and len(module.scales) > 1:
            text = "The scale that wins at each position in most channels, stronger where it wins in more"
            winners = draw_winning_scale(module, few, image=backdrop)
            figures.append({"src": to_data_uri(winners, "png"), "text": text, "kind": "wide"})
        offsets = _offsets(module, seen)
    for of, part in parts.items():
        text = f"Learned kernels of {of}: a column for each output channel, a row for each input channel"
        figures.append({"src": to_data_uri(draw_kernels(part), "png"), "text": text, "kind": "wide"})
    what = f"{type(module).__name__}({module.extra_repr()})"
    return {"name": name, "is": what, "figures": figures, "offsets": offsets}


def _input_of(module: nn.Module, found: Mapping[str, Any]) -> Tensor:
    """What a layer gets when the network sees its test images."""
    caught: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, arguments: caught.append(arguments[0]))
    try:
        with torch.no_grad():
            if isinstance(found["images"], Tensor):
                found["model"](found["images"])
            else:
                found["task"].forward(found["model"], found["images"], found["targets"])
    finally:
        hook.remove()
    return caught[0]


def _offsets(module: Any, seen: Tensor) -> list[dict[str, Any]]:
    """Length of the offsets of each scale, in pixels of the layer's input."""
    with torch.no_grad():
        found = module.offsets(seen)
    scales = [module.scales] if isinstance(module.scales, str) else [f"{scale:g}" for scale in module.scales]
    rows = []
    for scale, offset in zip(scales, found, strict=True):
        if offset is not None:
            lengths = offset.double().unflatten(1, (-1, 2)).norm(dim=2).flatten().cpu().numpy()
            median, most = np.percentile(lengths, (50, 95))
            rows.append({"scale": scale, "median": float(median), "p95": float(most)})
    return rows


def _field(row: Mapping[str, Any], place: str, model: nn.Module, images: Tensor) -> dict[str, Any]:
    """One network's effective receptive field on test images."""
    found = effective_receptive_field(model, images, layer=place)
    figure = draw_receptive_field(found, colorbar=False)
    figure.axes[0].set_title("")  # the page says it in letters that can be read and copied
    figure.set_figheight(figure.get_figheight() - 0.45)
    return {
        "name": row["name"],
        "src": to_data_uri(figure, "png"),
        "size": found.size,
        "side": found.side,
        "share": f"{found.share:.0%}",
        "cut": found.cut,
    }
