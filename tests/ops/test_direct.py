"""The direct way to the kernels: the same bits as the registered ops, and taken only where nobody watches."""

import copy
import importlib
from unittest import mock

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from foveal.geometry import log_polar_bins, scaled_taps
from foveal.ops import anisotropic_conv2d, arguments, binned_conv2d, direct, sampled_conv2d
from foveal.ops.binned import op as binned_op
from foveal.ops.native import library
from foveal.ops.sampled import op as sampled_op

BINS = log_polar_bins(9, 2, 6, 3.0)
NEEDS_KERNELS = pytest.mark.skipif(not library.instruction_sets(), reason="the CPU kernels are not compiled")


def binned():
    """A call of each kind, its tensors, and the registered op's result on them."""
    tensors = [torch.randn(2, 16, 11, 12), torch.randn(16, 16, 13), torch.randn(16)]
    plain = ([1, 1], [4, 4], [1, 1], 1)
    return (
        lambda x, w, b: binned_conv2d(x, w, BINS, b, padding=4),
        tensors,
        lambda x, w, b: binned_op._OPS[2].forward(x, w, BINS, b, *plain),
    )


def dense():
    bins = log_polar_bins(3, 1, 4, 2.0)
    tensors = [torch.randn(2, 3, 11, 12), torch.randn(4, 3, 5), torch.randn(4)]
    return (
        lambda x, w, b: binned_conv2d(x, w, bins, b),
        tensors,
        lambda x, w, b: binned_op._OPS[2].forward(x, w, bins, b, [1, 1], [0, 0], [1, 1], 1),
    )


def sampled():
    taps = scaled_taps(3, (1, 2))
    tensors = [torch.randn(2, 16, 11, 12), torch.randn(16, 16, 9), torch.randn(16), torch.randn(2, 36, 11, 12)]
    return (
        lambda x, w, b, o: sampled_conv2d(x, w, taps, o, b),
        tensors,
        lambda x, w, b, o: sampled_op._OPS[2].forward(x, w, taps, o.float(), b, [0, 1], [1, 1], 1, "max", [11, 12])[0],
    )


def with_a_list():
    taps = scaled_taps(3, (1, 2, 3))
    tensors = [
        torch.randn(2, 16, 11, 12),
        torch.randn(16, 16, 9),
        torch.randn(2, 18, 11, 12),
        torch.randn(2, 18, 11, 12),
    ]
    return (
        lambda x, w, o, q: sampled_conv2d(x, w, taps, [o, None, q]),
        tensors,
        lambda x, w, o, q: sampled_op._OPS[2].forward(
            x, w, taps, torch.cat([o, q], 1).float(), None, [0, 2], [1, 1], 1, "max", [11, 12]
        )[0],
    )


CASES = pytest.mark.parametrize("case", [binned, dense, sampled, with_a_list])


@CASES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_bits_as_the_registered_op(case, dtype):
    call, tensors, registered = case()
    given = [t.to(dtype).requires_grad_() for t in tensors]
    with torch.no_grad():
        first, again = call(*given), call(*given)
    expected = registered(*given)
    assert torch.equal(first, expected)
    assert torch.equal(again, expected)
    grad = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, given, grad)
    for mine, theirs in zip(torch.autograd.grad(call(*given), given, grad), wanted, strict=True):
        assert torch.equal(mine, theirs)


@CASES
def test_second_calls_meet_no_dispatcher(case):
    call, tensors, _ = case()
    if not library.instruction_sets() and case is not dense:
        pytest.skip("the CPU kernels are not compiled")
    call(*tensors)
    refused = mock.Mock(side_effect=AssertionError)
    ops = [{2: op._OPS[2]._replace(forward=refused)} for op in (binned_op, sampled_op)]
    with mock.patch.object(binned_op, "_OPS", ops[0]), mock.patch.object(sampled_op, "_OPS", ops[1]):
        call(*tensors)
        call(*(t.requires_grad_() for t in tensors)).sum().backward()
    assert all(t.grad is not None for t in tensors)


@CASES
def test_double_backward(case):
    call, tensors, registered = case()
    tensors = [t.requires_grad_() for t in tensors]
    call(*tensors)
    found = []
    for way in (call, registered):
        output = way(*tensors)
        first = torch.autograd.grad(output.square().sum(), tensors, create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), tensors))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs)


@CASES
def test_who_watches_sees_the_op(case):
    call, tensors, _ = case()
    call(*tensors)
    seen = []

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    with Mode():
        call(*tensors)
    assert any(name.startswith("foveal.") for name in seen)
    with FlopCounterMode(display=False) as counter:
        call(*tensors)
    assert counter.get_total_flops() > 0
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as watched:
        call(*tensors)
    assert any(event.key.startswith("foveal::") for event in watched.key_averages())


def test_a_map_changed_in_place_is_read_anew():
    bins = BINS.clone()
    input, weight = torch.randn(1, 16, 12, 12), torch.randn(16, 16, 13)
    binned_conv2d(input, weight, bins, padding=4)
    for change in (lambda: bins.fill_(-1)[4, 4].fill_(2), lambda: bins.numpy().__setitem__((0, 0), 5)):
        change()
        for gradient in (False, True, False):
            weight.requires_grad_(gradient)
            with torch.no_grad():
                expected = torch.nn.functional.conv2d(
                    input, torch.nn.functional.pad(weight, (0, 1))[:, :, bins], padding=4
                )
            torch.testing.assert_close(binned_conv2d(input, weight, bins, padding=4), expected, atol=1e-4, rtol=1e-4)
    bins[0, 0] = 13
    with pytest.raises(ValueError, match=r"bins must lie in -1 \.\. 12"):
        binned_conv2d(input, weight, bins, padding=4)


def test_a_map_seen_from_elsewhere_is_another():
    bins = BINS.clone()
    bins[0, 1] = 3
    input, weight = torch.randn(1, 16, 12, 12), torch.randn(16, 16, 13)
    straight = binned_conv2d(input, weight, bins, padding=4)
    turned = binned_conv2d(input, weight, bins.t(), padding=4)
    assert not torch.equal(straight, turned)
    assert torch.equal(turned, binned_conv2d(input, weight, bins.t().contiguous(), padding=4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("per", "groups"), [(16, 1), (8, 2), (1, 16)])
def test_means_are_the_weight_divided(dtype, per, groups):
    population = torch.arange(1, 14)
    input, weight = torch.randn(2, 16, 12, 12).to(dtype), torch.randn(16, per, 13).to(dtype).requires_grad_()
    divided = binned_op.mean_weight(weight, population)
    torch.testing.assert_close(divided.double(), weight.double() / population, rtol=4e-3, atol=0)
    for _ in range(2):
        mine = binned_conv2d(input, weight, BINS, padding=4, groups=groups, population=population)
        theirs = binned_conv2d(input, divided, BINS, padding=4, groups=groups)
        assert torch.equal(mine, theirs)
        grads = [
            torch.autograd.grad(out.float().square().sum(), weight, retain_graph=True)[0] for out in (mine, theirs)
        ]
        assert torch.equal(*grads)
        with torch.no_grad():
            for counts in (population, population.repeat_interleave(2)[::2]):
                kept = binned_conv2d(input, weight, BINS, padding=4, groups=groups, population=counts)
                assert torch.equal(kept, theirs)


@pytest.mark.parametrize("population", [torch.ones(12, dtype=torch.int64), torch.ones(13)])
def test_a_population_that_does_not_fit(population):
    with pytest.raises(ValueError, match="population must be int64, one number a column"):
        binned_conv2d(torch.randn(1, 16, 9, 9), torch.randn(4, 16, 13), BINS, population=population)


def test_taps_are_read_at_every_call():
    taps = scaled_taps(3, (1,))
    input, weight = torch.randn(1, 16, 12, 12), torch.randn(16, 16, 9)
    sampled_conv2d(input, weight, taps)
    taps *= 2
    torch.testing.assert_close(
        sampled_conv2d(input, weight, taps), anisotropic_conv2d(input, weight.unflatten(-1, (3, 3)), scales=(2,)),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight": torch.randn(16, 16, 13, dtype=torch.float64)}, "weight must have the dtype of input"),
        ({"bias": torch.randn(15)}, "bias must have shape"),
        ({"groups": 3}, "groups must divide"),
        ({"input": torch.randn(2, 15, 11, 12)}, "input must have 16 channels"),
        ({"stride": 0}, "stride must be a whole number"),
    ],
)
def test_checks_are_not_passed_over(change, words):
    given = {"input": torch.randn(2, 16, 11, 12), "weight": torch.randn(16, 16, 13), "bins": BINS, "padding": 4}
    given["bias"] = torch.randn(16)
    for _ in range(2):
        binned_conv2d(**given)
        with pytest.raises(ValueError, match=words):
            binned_conv2d(**{**given, **change})


@pytest.mark.parametrize("stride", [{}, [[1, 1]]])
def test_what_cannot_be_a_key_is_told_as_before(stride):
    with pytest.raises(ValueError, match="stride must be a whole number"):
        binned_conv2d(torch.randn(1, 16, 9, 9), torch.randn(4, 16, 13), BINS, stride=stride)
    with pytest.raises(ValueError, match="stride must be a whole number"):
        sampled_conv2d(torch.randn(1, 16, 9, 9), torch.randn(4, 16, 9), scaled_taps(3, (1, 2)), stride=stride)


@NEEDS_KERNELS
@pytest.mark.parametrize("case", [binned, sampled, with_a_list])
def test_remembered_calls_hold_no_maps(case):
    call, tensors, _ = case()
    calls = binned_op._READY if case is binned else sampled_op._READY
    calls.clear()
    call(*tensors)
    (ready,) = calls.values()
    held, queue = [], [ready]
    while queue:
        for cell in getattr(queue.pop(), "__closure__", None) or ():
            (held if isinstance(cell.cell_contents, torch.Tensor) else queue).append(cell.cell_contents)
    assert sum(t.numel() for t in held) == 0


def test_what_is_not_plain_is_not_direct():
    plain = torch.randn(3)
    assert direct.at_once(plain, None, torch.nn.Parameter(plain))
    other = plain.as_subclass(type("Other", (torch.Tensor,), {}))
    negative = torch.imag(torch.complex(plain, plain).conj())
    assert negative.is_neg()
    for tensor in (other, negative, plain.to("meta")):
        assert not direct.at_once(tensor)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not direct.at_once(plain)
    with torch.autograd.forward_ad.dual_level():
        assert not direct.at_once(plain)
    assert torch.func.vmap(lambda t: t * direct.at_once(plain))(plain).sum() == 0
    with torch.inference_mode():
        assert direct.at_once(torch.randn(3))


def test_negative_views_are_read_with_their_sign():
    real = torch.randn(1, 16, 12, 12)
    negative = torch.imag(torch.complex(real, real).conj())
    weight = torch.randn(16, 16, 13)
    torch.testing.assert_close(
        binned_conv2d(negative, weight, BINS, padding=4), -binned_conv2d(real, weight, BINS, padding=4)
    )


@NEEDS_KERNELS
def test_what_is_remembered_is_bounded():
    calls = {}
    for number in range(25):
        direct.remember(calls, number, None, most=10)
        assert len(calls) <= 10
    assert 24 in calls


def test_copies_of_a_layer_share_no_state():
    bins = BINS.clone()
    input, weight = torch.randn(1, 16, 12, 12), torch.randn(16, 16, 13)
    first = binned_conv2d(input, weight, bins, padding=4)
    other = copy.deepcopy(bins)
    other[4, 4] = 1
    assert not torch.equal(first, binned_conv2d(input, weight, other, padding=4))
    assert torch.equal(first, binned_conv2d(input, weight, bins, padding=4))


NAMES = ["_C._len_torch_dispatch_stack", "_C._len_torch_function_stack", "_C._is_any_autocast_enabled", "_C._is_tracing", "_C._autograd._profiler_enabled", "_C._are_functorch_transforms_active", "autograd.forward_ad._current_level"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", [binned, sampled])
def test_without_one_of_torchs_private_names_the_registered_op_runs(name, case, monkeypatch):
    """As in a release that has renamed it: all is right, and nothing goes the direct way."""
    *path, last = name.split(".")
    place = torch
    for part in path:
        place = getattr(place, part)
    call, tensors, registered = case()
    expected = registered(*tensors)
    try:
        with monkeypatch.context() as patch:
            patch.delattr(place, last)
            importlib.reload(arguments)
            importlib.reload(direct)
        assert not direct.at_once(*tensors)
        torch.testing.assert_close(call(*tensors), expected, rtol=1e-4, atol=1e-4)
        given = [t.clone().requires_grad_() for t in tensors]
        found = torch.autograd.grad(call(*given).sum(), given)
        wanted = torch.autograd.grad(registered(*given).sum(), given)
        for mine, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)
    finally:
        importlib.reload(arguments)
        importlib.reload(direct)
    assert direct.at_once(*tensors)
