"""What the tests of GPU kernels share: Triton's interpreter, a GPU, and what the kernels compile to."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

COMPILE = Path(__file__).with_name("compile_for_gpu.py")


@pytest.fixture(scope="session")
def interpreter():
    """Triton's interpreter, which runs kernels on CPU tensors, or a skip."""
    triton = pytest.importorskip("triton", reason="Triton is not installed")
    if not triton.knobs.runtime.interpret:
        pytest.skip("with a GPU the kernels run on it: pytest -m gpu")

    # it cuts off where it makes bfloat16 of float32, a GPU rounds: let it round
    from triton.runtime import interpreter

    convert = interpreter._convert_float

    def rounded(input, source, target, mode):
        if (source, target) != (triton.language.float32, triton.language.bfloat16):
            return convert(input, source, target, mode)
        return torch.from_numpy(input.copy()).to(torch.bfloat16).view(torch.int16).numpy().view("uint16")

    interpreter._convert_float = rounded

    @triton.jit
    def count(result, n):
        for _ in range(0, n):
            triton.language.store(result, n)

    result = torch.zeros(1)
    try:
        count[(1,)](result, 3)
    except triton.runtime.errors.InterpreterError as error:
        pytest.skip(f"the interpreter of Triton {triton.__version__} cannot loop with this NumPy: {error}")
    assert result.item() == 3
    return triton


@pytest.fixture(scope="session")
def compiled_for_gpu():
    """A function: what the kernels compile to for a dtype and a number of channels; see compile_for_gpu.py."""
    pytest.importorskip("triton", reason="Triton is not installed")

    @functools.cache
    def facts(*arguments):
        done = subprocess.run(
            [sys.executable, "-W", "error", COMPILE, *map(str, arguments)], check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return facts


@pytest.fixture
def gpu():
    """A device, or a skip."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device("cuda")
