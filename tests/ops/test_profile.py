"""Profiles of a machine: who reads them, when they fit, and what is done where there is none."""

import json
import subprocess
import sys

import pytest
import torch

from foveal.ops import binned_conv2d, profile
from foveal.ops.binned import cpu

CPU = torch.device("cpu")
NEEDS_KERNELS = pytest.mark.skipif(not cpu.takes(torch.zeros(1)), reason="the CPU kernels are not compiled")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    profile.forget()
    yield
    profile.forget()


def write(ways, **changes):
    path = profile.place(CPU)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"facts": {**profile.facts(CPU), **changes}, "ways": ways}))
    profile.forget()


def operands(batch=2):
    bins = torch.randint(-1, 4, (5, 5))
    return torch.randn(batch, 3, 8, 7), torch.randn(6, 3, 4), bins


def name(part, x, w, bins, padding):
    return profile.key(part, x.dtype, x.shape, w.shape, bins.shape, ([1, 1], padding, [1, 1], 1))


def test_the_rule_holds_where_nothing_was_measured():
    x, w, bins = operands()
    plain = ([1, 1], [2, 2], [1, 1], 1)
    assert [profile.takes("forward", rule, x, w, bins, plain) for rule in (True, False)] == [True, False]
    write({name("input", x, w, bins, [2, 2]): "kernel"})
    assert [profile.takes("forward", rule, x, w, bins, plain) for rule in (True, False)] == [True, False]


@NEEDS_KERNELS
@pytest.mark.parametrize("way", ["kernel", "dense"])
def test_what_was_measured_decides_for_any_batch(way, monkeypatch):
    x, w, bins = operands()
    write({name(part, x, w, bins, [2, 2]): way for part in ("forward", "input")})
    taken = []
    for function in ("at_once", "input_gradient"):
        real = getattr(cpu, function)
        monkeypatch.setattr(cpu, function, lambda *a, real=real, **k: (taken.append(1), real(*a, **k))[1])
    monkeypatch.setattr(cpu, "is_faster", lambda input, *_: way == "dense")  # the rule says the other
    for batch in (2, 5):
        given = torch.randn(batch, *x.shape[1:], requires_grad=True)
        output = binned_conv2d(given, w, bins, padding=2)
        output.sum().backward()
        assert given.grad is not None
        kernel = torch.nn.functional.pad(w, (0, 1))[:, :, bins]
        torch.testing.assert_close(output, torch.nn.functional.conv2d(given, kernel, padding=2), rtol=1e-4, atol=1e-4)
    assert bool(taken) == (way == "kernel")


@pytest.mark.parametrize("changed", ["device", "kernels", "foveal", "torch"])
def test_a_profile_of_another_machine_or_version_is_not_used(changed):
    x, w, bins = operands()
    ways = {name("forward", x, w, bins, [2, 2]): "kernel"}
    write(ways)
    assert profile.in_force(CPU) == ways
    write(ways, **{changed: "another"})
    assert profile.in_force(CPU) == {}


@pytest.mark.parametrize("text", ["", "[]", '{"facts": 3}', "{"])
def test_a_damaged_profile_is_named_and_not_used(text):
    write({})
    profile.place(CPU).write_text(text)
    if text == '{"facts": 3}':
        assert profile.in_force(CPU) == {}
        return
    with pytest.warns(RuntimeWarning, match=r"tune-.*json is not a profile .*foveal tune --clear"):
        assert profile.in_force(CPU) == {}


def test_it_is_read_once(monkeypatch):
    x, w, bins = operands()
    reads = []
    monkeypatch.setattr(profile, "in_force", lambda device: reads.append(device) or {})
    for _ in range(3):
        profile.takes("forward", True, x, w, bins, ([1, 1], [2, 2], [1, 1], 1))
    assert reads == [CPU]


def test_calls_are_noted():
    x, w, bins = operands()
    x = x.to(memory_format=torch.channels_last)
    with profile.noted() as found:
        profile.takes("forward", False, x, w, bins, ([1, 1], [2, 2], [1, 1], 1))
    (call,) = found
    assert (call.part, call.shape, call.dtype, call.last, call.weight) == (
        "forward",
        (2, 3, 8, 7),
        x.dtype,
        True,
        (6, 3, 4),
    )


def test_importing_the_ops_reads_no_file():
    code = "from foveal.ops import profile, binned_conv2d; print(profile._known)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "{}\n"
