"""Exported files opened in their own runtimes, on the CPU: what they compute, and what was written into them."""

from __future__ import annotations

import importlib.util
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foveal.extras import extra

FILES = (".onnx", ".xml", ".pt2")
"""How exported files end."""
_PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino")}
_EXTRA = {"onnx": "export", "openvino": "openvino"}


def needed(to: str) -> None:
    """Refuse a format whose packages are not there.

    Raises:
        ImportError: which package is missing, and how to get it.
    """
    missing = [name for name in _PACKAGES.get(to, ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"{to} needs {' and '.join(missing)}: pip install 'foveal[{_EXTRA[to]}]'")


class Opened(ABC):
    """An exported file in its runtime."""

    said: str
    """The JSON that was written into it."""

    @abstractmethod
    def run(self, input: Tensor) -> Tensor:
        """The output for an input, both on the CPU."""

    @property
    def metadata(self) -> dict[str, Any]:
        """What was written into the file; nothing where another program wrote it."""
        return json.loads(self.said) if self.said else {}


class _Onnx(Opened):
    def __init__(self, path: Path, threads: int) -> None:
        onnxruntime = extra("onnxruntime")

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.name = self.session.get_inputs()[0].name
        self.said = self.session.get_modelmeta().custom_metadata_map.get("foveal", "")

    def run(self, input: Tensor) -> Tensor:
        return torch.from_numpy(self.session.run(None, {self.name: input.numpy()})[0])


class _Pt2(Opened):
    def __init__(self, path: Path, threads: int) -> None:
        files = {"foveal": ""}
        self.program = torch.export.load(path, extra_files=files).module()
        self.said = files["foveal"]

    def run(self, input: Tensor) -> Tensor:
        return self.program(input).detach()


class _Aoti(Opened):
    def __init__(self, path: Path, threads: int) -> None:
        from torch._inductor import aoti_load_package

        self.package = aoti_load_package(str(path))
        self.said = self.package.get_metadata().get("foveal", "")

    def run(self, input: Tensor) -> Tensor:
        return self.package(input)


class _OpenVino(Opened):
    def __init__(self, path: Path, threads: int) -> None:
        openvino = extra("openvino")

        model = openvino.Core().read_model(path)
        self.said = model.get_rt_info("foveal").astype(str) if model.has_rt_info("foveal") else ""
        self.compiled = openvino.Core().compile_model(
            model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        )

    def run(self, input: Tensor) -> Tensor:
        return torch.from_numpy(self.compiled(input.numpy())[0].copy())


RUNTIMES: dict[str, type[Any]] = {"onnx": _Onnx, "pt2": _Pt2, "aoti": _Aoti, "openvino": _OpenVino}


def open_file(path: str | Path, threads: int = 0) -> Opened:
    """Open an exported file in its runtime.

    Args:
        path: ``.onnx``, ``.xml`` (openvino) or ``.pt2`` (torch.export's program or an AOTInductor package).
        threads: of onnxruntime and OpenVINO, 0 for their own choice; the others run on PyTorch's.

    Raises:
        FileNotFoundError: nothing is there.
        ImportError: its runtime is not installed.
        ValueError: another ending, or a file that its runtime does not take.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there")
    kinds = {".onnx": ("onnx",), ".xml": ("openvino",), ".pt2": ("pt2", "aoti")}.get(path.suffix)
    if kinds is None:
        raise ValueError(f"{path.name} must end in {', '.join(FILES)}")
    needed(kinds[0])
    for kind in kinds:
        try:
            return RUNTIMES[kind](path, threads)
        except Exception as error:
            wrong = error
    lines = str(wrong).splitlines()
    raise ValueError(
        f"{path} is no file of {' or '.join(kinds)}: {lines[0] if lines else type(wrong).__name__}"
    ) from wrong


class Network(nn.Module):
    """An exported file as a module, for code that takes networks; it has no parameters and no gradients."""

    def __init__(self, opened: Opened) -> None:
        super().__init__()
        self.opened = opened

    def forward(self, input: Tensor) -> Tensor:
        """Run the file."""
        return self.opened.run(input.detach().cpu().contiguous())
