"""What every test runs under: one thread a worker, uninitialised memory that is NaN, no network."""

import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # the deterministic mode asks for it on a GPU

import socket
import tempfile

import hypothesis
import pytest
import torch

# the same examples in every run, however slow the machine
hypothesis.settings.register_profile(
    "repeatable", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("repeatable")
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported: its kernels then run on CPU tensors
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()  # no profile of the user's machine decides in tests
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)  # also fills torch.empty with NaN


def pytest_collectstart(collector: pytest.Collector) -> None:
    """The same weights in every run for networks that a test file makes as it is imported."""
    if isinstance(collector, pytest.Module):
        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _seed_and_loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same random numbers in any order of tests, and no connection that leaves the machine."""
    torch.manual_seed(0)
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else "local"
        if host not in ("local", "127.0.0.1", "localhost", "::1"):
            raise AssertionError(f"a test may not reach {address}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def torchvision():
    """torchvision, or a skip: a build that does not match torch fails at import, and much must work without it."""
    try:
        import torchvision
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision cannot be imported beside torch {torch.__version__}: {error}")
    return torchvision


@pytest.fixture
def timm(torchvision):
    """timm, which needs torchvision, or a skip."""
    return pytest.importorskip("timm", reason="timm is not installed")


@pytest.fixture
def largest_storage():
    """A mode that notes in ``bytes`` the largest tensor that any operator under it makes."""

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        bytes = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for tensor in torch.utils._pytree.tree_leaves(result):
                if isinstance(tensor, torch.Tensor):
                    self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
            return result

    return Largest


@pytest.fixture
def bare():
    """Makes a run folder as training leaves it, without any training; finished where there is a result."""
    from foveal.recipes.schema import Recipe

    def make(out, name, seed=0, *, result=None, lines=None, **changes):
        run = out / name / f"seed{seed}"
        run.mkdir(parents=True)
        least = {
            "name": name,
            "model": {"name": "small_cnn"},
            "data": {"name": "npz", "root": str(out)},
            "train": {"epochs": 2, "batch_size": 10, "lr": 0.01},
        }
        (run / "recipe.yaml").write_text(Recipe.model_validate({**least, **changes}).dump())
        text = ["epoch,step,train_loss,test_accuracy,seconds", *(lines or ["1,2,0.5,,"])]
        (run / "metrics.csv").write_text("\n".join(text) + "\n")
        if result is not None:
            (run / "result.json").write_text(json.dumps({"seed": seed, "quick": False, **result}))
        return run

    return make
