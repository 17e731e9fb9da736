"""A network as a file for another runtime, whose outputs are compared with PyTorch's before the file is called done."""

from __future__ import annotations

import copy
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foveal.deploy.fold import fold
from foveal.deploy.forms import reform
from foveal.deploy.runtime import RUNTIMES, needed
from foveal.extras import extra
from foveal.layers import shaped
from foveal.ops import onnx_deform
from foveal.ops.sampled.export import DEFORM

TARGETS = tuple(RUNTIMES)
SUFFIX = {"onnx": ".onnx", "pt2": ".pt2", "aoti": ".pt2", "openvino": ".xml"}
DYNAMIC = ("batch", "size")
_OPSET = 20  # the first with all that an anisotropic layer needs
_HALF = 2e-2
_SINGLE = 1e-4


@dataclass(frozen=True)
class Check:
    """What was compared: the shape of the input, what it held, and the largest difference relative to the largest output."""

    shape: tuple[int, ...]
    what: str
    difference: float


@dataclass(frozen=True)
class Exported:
    """A file that was checked.

    Attributes:
        path: of the file; openvino has a second one beside it, of weights (.bin).
        to: its format.
        checks: the comparisons, all within the tolerance.
        notes: what else is to be known: batch normalisation that could not be folded.
    """

    path: Path
    to: str
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()

    @property
    def difference(self) -> float:
        """The largest of all checks."""
        return max(check.difference for check in self.checks)


class ExportError(ValueError):
    """A network that a format or its runtime cannot give rightly; no file is left."""


def export(
    model: nn.Module,
    example: Tensor,
    path: str | Path,
    *,
    to: str = "onnx",
    dynamic: Sequence[str] = ("batch",),
    opset: int = _OPSET,
    half: bool = False,
    form: str = "auto",
    deform: str = "auto",
    metadata: Mapping[str, Any] | None = None,
    images: Sequence[Tensor] = (),
) -> Exported:
    """Write a network for another runtime, and compare what that runtime makes of it with PyTorch.

    A copy of the network is put in eval mode, batch normalisation folded (:func:`foveal.fold`), wide log-polar layers brought
    into the form that is fast there, and exported. The file is then opened in its own runtime on the CPU and run on random
    inputs, of two batch sizes and two sizes where these are dynamic, and on ``images``.

    Args:
        model: any nn.Module that takes one tensor and gives one.
        example: float32 Tensor[N, C, ...], an input.
        path: of the file; ``.onnx``, ``.pt2`` or ``.xml`` (openvino).
        to: ``"onnx"``; ``"pt2"``, torch.export's program; ``"aoti"``, an AOTInductor package for this machine's CPU;
            ``"openvino"``, its intermediate representation.
        dynamic: what may change from call to call: "batch", "size" (all dimensions behind the channels).
        opset: of ONNX, 20 or later.
        half: float16 (ONNX and pt2: the whole network; openvino: stored weights).
        form: of wide log-polar layers: "dense", one convolution; "sums" over bins and a 1x1 convolution; "auto", the faster.
        deform: by which operator of ONNX moving points are read: "DeformConv", which reads and multiplies at once (an error
            where points lie on no grid, or the runtime lacks it, as onnxruntime before 1.25 and OpenVINO do); "GridSample" and
            a convolution; "auto", in onnx DeformConv where points lie on a grid and the runtime takes it.
        metadata: what goes into the file as JSON under the name "foveal"; :func:`foveal.deploy.runtime.open_file` gives it back.
        images: further inputs to compare, Tensor[N, C, ...] each.

    Returns:
        The file and what was compared.

    Raises:
        ValueError: an argument breaks its rule.
        ImportError: the format needs a package that is not installed.
        ExportError: the network cannot be exported, or the runtime refuses the file or gives other outputs: more than
            1e-4 of the largest output away (half: 2e-2). No file is left.

    Example:
        >>> from foveal import LogPolarConv2d
        >>> model = nn.Sequential(LogPolarConv2d(3, 4, 9), nn.ReLU())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     done = export(model, torch.randn(1, 3, 16, 16), folder + "/model.pt2", to="pt2")
        >>> done.difference < 1e-4
        True
    """
    path = _check(path, to, dynamic, opset, example)
    needed(to)
    shaped.check_choice("deform", deform, DEFORM)
    plain = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    example = example.detach().cpu().float()
    with torch.no_grad():
        inputs = [(what, given) for what, given in _inputs(example, dynamic, images)]
        expected = [_one_tensor(plain(given)) for _, given in inputs]
    ready, notes = _folded(plain)
    dtype = (
        torch.float16 if half and to in ("onnx", "pt2") else torch.float32
    )  # OpenVINO's are halves in the file alone
    ready = reform(ready, form, to).to(dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    said = json.dumps(dict(metadata or {}))
    name = type(model).__name__

    def attempt(operator: str) -> tuple[Check, ...]:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            place = Path(folder) / path.name
            with _explained(f"{name} cannot be exported to {to}"), warnings.catch_warnings(), onnx_deform(operator):
                warnings.simplefilter("ignore")
                _WRITERS[to](ready, example.to(dtype), place, dynamic, opset, half, said)
            checks = _compare(place, to, dtype, inputs, expected, _HALF if half else _SINGLE)
            for file in sorted(Path(folder).iterdir()):
                os.replace(file, path.parent / file.name)
        return checks

    if deform != "auto" or to != "onnx":
        return Exported(path, to, attempt("GridSample" if deform == "auto" else deform), notes)
    try:
        checks = attempt("auto")
    except ExportError as error:
        checks = attempt("GridSample")
        notes += (f"moving points are read by GridSample: with DeformConv, {error}",)
    return Exported(path, to, checks, notes)


def _compare(
    place: Path, to: str, dtype: torch.dtype, inputs: list[tuple[str, Tensor]], expected: list[Tensor], limit: float
) -> tuple[Check, ...]:
    """What the file's own runtime makes of the inputs, against what it should be."""
    with _explained(f"the file is written, but {to}'s runtime does not take it"):
        run = RUNTIMES[to](place, 0).run
    checks = []
    for (what, given), true in zip(inputs, expected, strict=True):
        with _explained(f"{to}'s runtime fails on an input of shape {tuple(given.shape)}"):
            output = run(given.to(dtype)).float()
        checks.append(Check(tuple(given.shape), what, _difference(output, true)))
    worst = max(checks, key=lambda check: check.difference)
    if not worst.difference <= limit:
        raise ExportError(
            f"{to}'s outputs differ from PyTorch's by {worst.difference:.2g} of the largest on {worst.what} of shape "
            f"{worst.shape}; at most {limit:g} is right. No file is kept"
        )
    return tuple(checks)


def _check(path: str | Path, to: str, dynamic: Sequence[str], opset: int, example: Tensor) -> Path:
    shaped.check_choice("to", to, TARGETS)
    path = Path(path)
    if path.suffix != SUFFIX[to]:
        raise ValueError(f"path must end in {SUFFIX[to]} for {to}; got {path.name}")
    if isinstance(dynamic, str) or not set(dynamic) <= set(DYNAMIC):
        raise ValueError(f"dynamic must be some of {', '.join(DYNAMIC)}; got {dynamic!r}")
    if isinstance(opset, bool) or not isinstance(opset, int) or opset < _OPSET:
        raise ValueError(f"opset must be {_OPSET} or later, which has what foveal's layers need; got {opset!r}")
    if example.ndim < 3 or not example.is_floating_point():
        raise ValueError(
            f"example must be float Tensor[N, C, ...]; got {example.dtype} of shape {tuple(example.shape)}"
        )
    return path


def _folded(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """Without batch normalisation where that goes, and what did not."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            model = fold(model)
        except ValueError as error:
            return model, (str(error),)
    return model, tuple(str(one.message) for one in told)


def _inputs(example: Tensor, dynamic: Sequence[str], images: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
    """What is compared: the example, random numbers in its shape and in others that are allowed, images."""
    generator = torch.Generator().manual_seed(0)
    batch, channels, *sides = example.shape
    yield "the example", example
    shapes = [tuple(example.shape)]
    if "batch" in dynamic:
        shapes.append((batch + 2, channels, *sides))
    if "size" in dynamic:
        shapes.append((batch, channels, *(side + 32 for side in sides)))
    for shape in shapes:
        yield "random numbers", torch.randn(shape, generator=generator)
    for image in images:
        yield "an image", image.detach().cpu().float()


def _difference(found: Tensor, true: Tensor) -> float:
    if found.shape != true.shape:
        return float("inf")
    return (
        float((found.double() - true.double()).abs().max() / true.abs().max().clamp_min(1e-12)) if true.numel() else 0.0
    )


def _one_tensor(output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise ExportError(
            f"the network must give one tensor; it gives {type(output).__name__}. Wrap it in a module that gives the one you need"
        )
    return output


class _explained:
    """What goes wrong inside is told as one sentence, with torch's or the runtime's own first line."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, (ExportError, ImportError)):
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise ExportError(f"{self.what}: {lines[0] if lines else type(error).__name__}") from error


def _dynamic_shapes(example: Tensor, dynamic: Sequence[str]) -> tuple[dict[int, Any]]:
    """Which dimensions of the input are not fixed; a batch that may be one is no special case."""
    free = ([0] if "batch" in dynamic else []) + (list(range(2, example.ndim)) if "size" in dynamic else [])
    return (dict.fromkeys(free, torch.export.Dim.DYNAMIC),)


def _program(model: nn.Module, example: Tensor, dynamic: Sequence[str]) -> Any:
    # a dimension of one is taken for fixed, so two of what may vary are shown
    shown = example.repeat(2, *(1,) * (example.ndim - 1)) if "batch" in dynamic and len(example) == 1 else example
    return torch.export.export(model, (shown,), dynamic_shapes=_dynamic_shapes(shown, dynamic))


def _write_onnx(model: nn.Module, example: Tensor, path: Path, dynamic: Any, opset: int, half: bool, said: str) -> None:
    onnx = extra("onnx")

    names: dict[str, Any] = {"input_names": ["input"], "output_names": ["output"]}
    program = _program(model, example, dynamic)
    made = torch.onnx.export(program, (), None, dynamo=True, opset_version=opset, verbose=False, **names)
    assert made is not None  # it is None where a file is given, too
    made.save(path, external_data=False)
    proto = onnx.load(path)
    entry = proto.metadata_props.add()
    entry.key, entry.value = "foveal", said
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def _write_pt2(model: nn.Module, example: Tensor, path: Path, dynamic: Any, opset: int, half: bool, said: str) -> None:
    torch.export.save(_program(model, example, dynamic), path, extra_files={"foveal": said})


def _write_aoti(model: nn.Module, example: Tensor, path: Path, dynamic: Any, opset: int, half: bool, said: str) -> None:
    from torch._inductor import aoti_compile_and_package

    options = {"aot_inductor.metadata": {"foveal": said}}
    aoti_compile_and_package(_program(model, example, dynamic), package_path=str(path), inductor_configs=options)


def _write_openvino(
    model: nn.Module, example: Tensor, path: Path, dynamic: Any, opset: int, half: bool, said: str
) -> None:
    openvino = extra("openvino")

    onnx_file = path.with_suffix(".onnx")
    _write_onnx(model, example, onnx_file, dynamic, opset, False, said)
    converted = openvino.convert_model(onnx_file)
    onnx_file.unlink()
    converted.set_rt_info(said, "foveal")
    openvino.save_model(converted, path, compress_to_fp16=half)


_WRITERS: dict[str, Callable[..., None]] = {
    "onnx": _write_onnx,
    "pt2": _write_pt2,
    "aoti": _write_aoti,
    "openvino": _write_openvino,
}
