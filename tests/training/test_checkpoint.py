"""Checkpoints: whole or not there, and no damage goes unseen."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from foveal.data import writing
from foveal.training import checkpoint
from foveal.training.checkpoint import CheckpointError, load, load_newest, load_weights, save


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(4, 3))


def put(folder: Path, step: int = 1, keep: Path | None = None) -> Path:
    state: dict[str, Any] = {"step": step, "lr": 0.1, "name": "é", "none": None, "list": [1, {"a": torch.arange(5)}]}
    return save(folder, network().state_dict(), state, {"seed": 7}, keep=keep)


def test_round_trip(tmp_path: Path) -> None:
    folder = put(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "state.pt", "weights.safetensors"]
    saved = load(folder)
    for name, value in network().state_dict().items():
        assert torch.equal(saved.weights[name], value)
        assert saved.weights[name].dtype == value.dtype
    assert torch.equal(saved.state["list"][1].pop("a"), torch.arange(5))
    assert saved.state == {"step": 1, "lr": 0.1, "name": "é", "none": None, "list": [1, {}]}
    assert saved.manifest["seed"] == 7


def test_shared_and_strided_tensors(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(2, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    saved = load(save(tmp_path, {"a": base, "b": base, "c": base[:, 1:]}, {}, {}))
    assert torch.equal(saved.weights["a"], base)
    assert torch.equal(saved.weights["b"], base)
    assert torch.equal(saved.weights["c"], base[:, 1:])


def test_two_are_kept_and_the_numbers_go_on(tmp_path: Path) -> None:
    last = None
    for step in range(5):
        last = put(tmp_path, step, last)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000004", "000005"]
    newest = load_newest(tmp_path)
    assert newest is not None
    assert newest.state["step"] == 4


def test_a_damaged_newest_falls_back_and_is_replaced(tmp_path: Path) -> None:
    good = put(tmp_path, 1)
    bad = put(tmp_path, 2, keep=good)
    (bad / "state.pt").write_bytes(b"x")
    with pytest.warns(RuntimeWarning, match=r"state\.pt is damaged.*going back to .*000001"):
        newest = load_newest(tmp_path)
    assert newest is not None
    assert newest.folder == good
    put(tmp_path, 3, keep=newest.folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000001", "000003"]


def test_nothing_saved_is_not_an_error_but_nothing_good_is(tmp_path: Path) -> None:
    assert load_newest(tmp_path / "absent") is None
    assert load_newest(tmp_path) is None
    for _ in range(2):
        put(tmp_path, keep=tmp_path / "000001")
    for path in tmp_path.glob("*/manifest.json"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* can be used; delete that folder to start again"):
        load_newest(tmp_path)


@pytest.mark.parametrize("name", ["weights.safetensors", "state.pt", "manifest.json"])
def test_fuzz(tmp_path: Path, name: str) -> None:
    """Whatever happens to the bytes of a file, it is one error that names the file, never other numbers."""
    folder = put(tmp_path)
    path = folder / name
    good = path.read_bytes()
    draw = random.Random(name)
    seen = 0
    for trial in range(250):
        data = bytearray(good)
        place = draw.randrange(len(data))
        match trial % 5:
            case 0:
                del data[len(data) * trial // 250 :]
            case 1:
                data[place] ^= 1 << draw.randrange(8)
            case 2:
                data[place:place] = draw.randbytes(draw.randrange(1, 9))
            case 3:
                del data[place : place + draw.randrange(1, 9)]
            case 4:
                start = draw.randrange(len(data))
                data[start : start + 16] = data[place : place + 16]
        if bytes(data) == good:
            continue
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=name):
            load(folder)
        seen += 1
    assert seen >= 230
    path.write_bytes(good)
    load(folder)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"null", b"[" * 100_000, b"\xff\xfe", b'{"files": {}}', b"1" * 5000, b'{"a":' * 100_000]
)
def test_manifests_that_are_none(tmp_path: Path, data: bytes) -> None:
    folder = put(tmp_path)
    (folder / "manifest.json").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"manifest\.json is damaged"):
        load(folder)


@pytest.mark.parametrize("name", ["weights.safetensors", "state.pt", "manifest.json"])
def test_missing_and_unreadable_files(tmp_path: Path, name: str) -> None:
    folder = put(tmp_path)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        load(folder)
    (folder / name).mkdir()
    with pytest.raises(CheckpointError, match=name):
        load(folder)


def forge(folder: Path, name: str, data: bytes) -> None:
    """Replace a file together with its sum, as only someone who means harm would."""
    (folder / name).write_bytes(data)
    path = folder / "manifest.json"
    content = json.loads(path.read_bytes())
    del content["sha256"]
    content["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    path.write_bytes(checkpoint._manifest(content))


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("harm",))


def test_a_forged_state_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = put(tmp_path / "c")
    torch.save({"step": Harm()}, tmp_path / "evil.pt")
    forge(folder, "state.pt", (tmp_path / "evil.pt").read_bytes())
    with pytest.raises(CheckpointError, match="holds what foveal never saves"):
        load(folder)
    assert not (tmp_path / "harm").exists()
    folder = put(tmp_path / "d")
    forge(folder, "weights.safetensors", b"\xff" * 64)
    with pytest.raises(CheckpointError, match="is no safetensors file"):
        load(folder)


def test_forged_manifests(tmp_path: Path) -> None:
    folder = put(tmp_path)
    path = folder / "manifest.json"
    content = json.loads(path.read_bytes())
    del content["sha256"]
    path.write_bytes(checkpoint._manifest({**content, "format": 99}))
    with pytest.raises(CheckpointError, match="has format 99, this foveal reads 1; update foveal"):
        load(folder)
    for files in ({}, None, {"weights.safetensors": 3}):
        path.write_bytes(checkpoint._manifest({**content, "files": files}))
        with pytest.raises(CheckpointError, match=r"does not tell the size and sha256 of weights\.safetensors"):
            load(folder)


def test_weights_of_another_network(tmp_path: Path) -> None:
    put(tmp_path)
    model = network()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert load_weights(tmp_path, model)["seed"] == 7
    assert torch.equal(model[0].weight, network()[0].weight)  # type: ignore[index]
    assert load_weights(tmp_path / "000001", model)["seed"] == 7
    for other, message in (
        (nn.Sequential(nn.Conv2d(1, 2, 5), nn.BatchNorm2d(2), nn.Linear(4, 3)), r"0\.weight is \[2, 1, 3, 3\]"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), r"2\.weight is not in this network"),
        (nn.Sequential(*network(), nn.Linear(3, 3)), r"3\.weight is missing"),
        (network().double(), r"torch\.float32, here it is \[2, 1, 3, 3\] torch\.float64.* and \d more"),
    ):
        before = {name: value.clone() for name, value in other.state_dict().items()}
        with pytest.raises(CheckpointError, match=message):
            load_weights(tmp_path, other)
        assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        load_weights(tmp_path / "absent", model)


def test_weights_need_no_state(tmp_path: Path) -> None:
    folder = put(tmp_path)
    (folder / "state.pt").unlink()
    load_weights(folder, network())


# ---- what happens while saving ----


@pytest.mark.parametrize("call", range(12))
def test_a_failure_at_any_call_keeps_the_former_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """The disk is full at the n-th call to the system: the message says so and nothing is half there."""
    former = put(tmp_path, 1)
    calls = 0
    for module, name in ((os, "fsync"), (os, "replace"), (os, "open"), (checkpoint, "open"), (writing, "open")):
        real = getattr(module, name, open)

        def failing(*args: Any, real: Any = real, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call + 1:
                raise OSError(28, "No space left on device")
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, failing, raising=False)
    message = None
    try:
        put(tmp_path, 2, keep=former)
    except OSError as error:
        message = str(error)
    monkeypatch.undo()
    assert (message is not None) == (call < calls)
    assert message is None or ("No space left on device" in message and "MiB free" in message)
    newest = load_newest(tmp_path)
    assert newest is not None
    assert newest.state["step"] in (1, 2)
    assert (tmp_path / "000001").is_dir()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_failures_cover_all_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for module, name in ((os, "fsync"), (os, "replace"), (os, "open"), (checkpoint, "open"), (writing, "open")):
        real = getattr(module, name, open)
        monkeypatch.setattr(
            module,
            name,
            lambda *args, real=real, **kwargs: (calls.append(real), real(*args, **kwargs))[1],
            raising=False,
        )
    put(tmp_path)
    assert 8 <= len(calls) <= 12


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match=r"cannot write .*file/checkpoint: Not a directory; a file stands where"):
        put(tmp_path / "file" / "checkpoint")
    assert put(tmp_path / "mit Leerzeichen é").is_dir()


KILLER = """
import os, random, signal, sys, time, torch
from pathlib import Path
from foveal.training.checkpoint import load_newest, save

torch.set_num_threads(1)
folder, kills, draw = Path(sys.argv[1]), int(sys.argv[2]), random.Random(0)


def put(step, last):
    return save(folder, {"w": torch.full((200_000,), float(step))}, {"step": step}, {}, keep=last)


start = time.perf_counter()
last = put(2, put(1, None))
once = (time.perf_counter() - start) / 2  # moments to die at lie as far apart as saves take on this machine
newest = load_newest(folder)
for _ in range(kills):
    begun, begin = os.pipe()
    child = os.fork()
    if child == 0:
        last = newest.folder
        os.write(begin, b".")
        for step in range(newest.state["step"] + 1, 10**9):
            last = put(step, last)
    os.read(begun, 1)
    time.sleep(draw.uniform(0, 4 * once))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(begun), os.close(begin)
    before, newest = newest, load_newest(folder)
    assert newest.state["step"] >= before.state["step"]
    assert torch.equal(newest.weights["w"], torch.full((200_000,), float(newest.state["step"])))
print(newest.state["step"])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
@pytest.mark.parametrize("kills", [pytest.param(20, id="few"), pytest.param(200, id="many", marks=pytest.mark.slow)])
def test_kill_while_saving(tmp_path: Path, kills: int) -> None:
    """What was saved last is there, whole, at whatever moment the process dies."""
    arguments = [sys.executable, "-W", "error::RuntimeWarning", "-c", KILLER, str(tmp_path), str(kills)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 2, "saves were finished between the kills"
    put(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1, "leftovers of the killed saves are gone"
