"""How the compiled kernels are found, built and run: instruction sets, torch's threads, a missing library, sanitizers."""

import contextlib
import ctypes
import io
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import foveal
from foveal.geometry import log_polar_bins
from foveal.ops import binned_conv2d
from foveal.ops.native import library

ROOT = Path(__file__).parents[3]
NATIVE = Path(library.__file__).parent
SETS = library.instruction_sets()
NEEDS_KERNELS = pytest.mark.skipif(not SETS, reason="the CPU kernels are not compiled")

# What every copy of the package must still do, whichever path it takes.
WORKS = """
import torch, foveal
from foveal.geometry import log_polar_bins, scaled_taps
from foveal.ops import binned_conv2d, sampled_conv2d
from foveal.ops.native import library
torch.manual_seed(0)
input = torch.randn(2, 8, 9, 9, requires_grad=True)
weight = torch.randn(8, 8, 13, requires_grad=True)
offset = torch.randn(2, 36, 9, 9, requires_grad=True)
first = binned_conv2d(input, weight, log_polar_bins(9, 2, 6, 3.0), padding=4)
second = sampled_conv2d(input, weight[..., :9], scaled_taps(3, (1, 2)), offset)
grads = torch.autograd.grad(first.square().sum() + second.square().sum(), (input, weight, offset))
print(library.instruction_sets(), *(f"{float(t.detach().double().sum()):.4g}" for t in (first, second, *grads)))
"""


def run_python(code, folder):
    environment = {**os.environ, "PYTHONPATH": os.fspath(folder)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


@pytest.fixture
def copied(tmp_path):
    """The package elsewhere, without its library, and where that would be."""
    target = tmp_path / "foveal"
    shutil.copytree(Path(foveal.__file__).parent, target, ignore=shutil.ignore_patterns("_kernels.so", "__pycache__"))
    return tmp_path, target / "ops" / "native" / "_kernels.so"


def test_instruction_sets_are_a_prefix_of_the_list():
    assert library.INSTRUCTION_SETS[: len(SETS)] == SETS
    if (NATIVE / "_kernels.so").exists():
        assert SETS[0] == "base"


@NEEDS_KERNELS
def test_the_best_set_runs_unless_a_test_chooses():
    assert library.function("binned_forward").__name__ == f"binned_forward_{SETS[-1]}"
    library._chosen[:] = ["base"]
    try:
        assert library.function("binned_forward").__name__ == "binned_forward_base"
    finally:
        library._chosen.clear()
    assert library.function("binned_forward").__name__ == f"binned_forward_{SETS[-1]}"


@NEEDS_KERNELS
def test_every_set_has_every_kernel():
    assert len(library.ARGUMENTS) == 4
    for isa in SETS:
        assert all(hasattr(library._library(), f"{name}_{isa}") for name in library.ARGUMENTS)


@NEEDS_KERNELS
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_loop_runs_on_as_many_threads_as_torch_has(threads):
    """The kernels' own loop over threads, given a body that notes who runs it."""
    loop = ctypes.c_void_p.in_dll(library._library(), "foveal_parallel").value
    if loop is None:
        pytest.skip("this torch exports no loop over threads; the kernels run on one")
    body_type = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
    parallel = ctypes.CFUNCTYPE(
        ctypes.c_int32, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, body_type, ctypes.c_void_p
    )(loop)
    seen = []
    body = body_type(lambda begin, end, _: seen.append((begin, end, threading.get_ident())))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        parallel(0, 12, 1, body, None)
    finally:
        torch.set_num_threads(before)
    assert sorted(i for begin, end, _ in seen for i in range(begin, end)) == list(range(12))
    assert len(seen) == len({who for *_, who in seen}) == threads


@NEEDS_KERNELS
def test_there_is_no_second_runtime_for_threads():
    """The library brings none, and loading it maps none beside torch's."""
    content = (NATIVE / "_kernels.so").read_bytes()
    assert b"libgomp" not in content
    assert b"libiomp" not in content
    assert b"libtorch" not in content  # built without torch: the loop is handed over at run time


def test_without_the_library_everything_works(copied):
    folder, _ = copied
    done = run_python(WORKS, folder)
    assert done.returncode == 0, done.stderr
    mine = io.StringIO()
    with contextlib.redirect_stdout(mine):
        exec(WORKS, {})
    assert done.stdout.split(")")[0] == "("
    assert done.stdout.split(")")[1] == mine.getvalue().split(")")[1]


@NEEDS_KERNELS
def test_a_library_that_does_not_load_is_named_or_passed_over(copied):
    folder, target = copied
    target.write_bytes(b"this is no library")
    done = run_python(WORKS, folder)
    if done.returncode == 0:
        assert done.stdout.startswith("()")
    else:
        assert done.returncode == 1, f"killed by signal {-done.returncode}"
        assert os.fspath(target) in done.stderr.strip().splitlines()[-1]


@NEEDS_KERNELS
def test_no_memory_is_an_error_that_says_so(monkeypatch):
    monkeypatch.setattr(library, "function", lambda name: lambda *given: 1)
    with pytest.raises(MemoryError, match="use a smaller batch"):
        binned_conv2d(torch.randn(1, 16, 9, 9), torch.randn(16, 16, 13), log_polar_bins(9, 2, 6, 3.0))


def build(tmp_path, **environment):
    """What ``setup.py build`` prints and leaves, run on a copy of the tree."""
    for name in ("setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    skip = shutil.ignore_patterns("_kernels.so", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=skip)
    (tmp_path / "README.md").touch()
    command = [sys.executable, "setup.py", "-q", "build"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "", **environment}
    )
    return done, [p for p in (tmp_path / "build").rglob("*") if p.is_file()]


@pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="runs in the source tree")
def test_without_a_compiler_the_build_succeeds_and_says_so_once(tmp_path):
    pytest.importorskip("setuptools")
    done, files = build(tmp_path, CC="/nonexistent")
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("plain PyTorch") == 1
    assert any(p.name == "library.py" for p in files)
    assert not any(p.suffix == ".so" for p in files)


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="runs in the source tree")
@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
@pytest.mark.parametrize("compiler", ["gcc", "gcc -g0", "env gcc"])
def test_with_a_compiler_the_build_has_every_set(tmp_path, compiler):
    pytest.importorskip("setuptools")
    done, files = build(tmp_path, CC=compiler)
    assert done.returncode == 0, done.stderr
    (built,) = [p for p in files if p.name == "_kernels.so"]
    found = ctypes.CDLL(os.fspath(built))
    assert hasattr(found, "binned_forward_base")
    assert "plain PyTorch" not in done.stdout + done.stderr


@NEEDS_KERNELS
@pytest.mark.skipif(sys.platform != "linux", reason="the library is an ELF file on Linux")
@pytest.mark.parametrize("damage", ["empty", "stump", "half", "all but the last byte", "text", "foreign"])
def test_a_damaged_library_does_not_end_the_process(copied, damage):
    folder, target = copied
    whole = (NATIVE / "_kernels.so").read_bytes()
    lengths = {"empty": 0, "stump": 40, "half": len(whole) // 2, "all but the last byte": len(whole) - 1}
    if damage == "foreign":
        source = folder / "other.c"
        source.write_text("int other(void) { return 1; }\n")
        if shutil.which("gcc") is None:
            pytest.skip("needs gcc")
        subprocess.run(["gcc", "-shared", "-fPIC", source, "-o", target], check=True)
    else:
        target.write_bytes(b"not a library\n" * 99 if damage == "text" else whole[: lengths[damage]])
    done = run_python(WORKS, folder)
    assert done.returncode == 0, done.stderr
    assert "the CPU kernels cannot be loaded" in done.stderr
    assert "Install foveal again" in done.stderr


# The campaign below runs the ops of a copied package whose library was built with sanitizers. torch's tensors then come from
# the sanitizer's allocator, so each has its exact size with guarded memory around it, and fresh memory is full of NaN.
CAMPAIGN = """
import itertools, random, sys
import torch
from foveal.ops.binned import cpu as binned_cpu
from foveal.geometry import log_polar_bins, scaled_taps
from foveal.ops import binned_conv2d, binned_conv3d, sampled_conv2d, sampled_conv3d
from foveal.ops.binned import reference as binned
from foveal.ops.native import library
from foveal.ops.sampled import reference as sampled

binned_cpu.is_faster = lambda input, *_: binned_cpu.takes(input)
torch.set_num_threads(2)
torch.manual_seed(0)
pick = random.Random(0).choice
channels = (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 70)


def lay(t):
    kind = pick(range(6))
    if kind == 0:
        return t.contiguous(memory_format=torch.channels_last)
    if kind == 1:
        return torch.cat((t, t), 1)[:, t.shape[1] :]
    if kind == 2:
        return torch.stack((t, t), -1)[..., 1]
    if kind == 3:
        return t.transpose(2, 3).contiguous().transpose(2, 3)
    if kind == 4:
        return t[:1].expand(t.shape)
    return t


def close(mine, true, dtype):
    limit = 1e-5 if dtype == torch.float32 else 2e-2
    assert mine.isfinite().all()
    assert float((mine.double() - true).norm()) <= limit * float(true.norm()) + 1e-5, (mine.shape, dtype)


count = 0
for isa in library.instruction_sets():
    library._chosen[:] = [isa]
    for _ in range(int(sys.argv[1])):
        dtype = pick((torch.float32, torch.float32, torch.bfloat16))
        groups = pick((1, 1, 2, 3))
        per, outs = (pick(channels if groups == 1 else channels[:9]) for _ in range(2))
        if pick((True, False, False, False)):
            groups, per, outs = pick(channels), 1, 1
        stride, side = pick((1, 1, 2, 4)), pick((1, 3, 5, 9))
        size = [pick((1, 2, 3, 5, 9, 16, 33)) for _ in range(2)]
        batch = pick((0, 1, 1, 2))
        input = lay(torch.randn(batch, groups * per, *size).to(dtype)).detach().requires_grad_()
        if pick((True, False)):
            bins = log_polar_bins(max(3, side), pick((1, 2, 3)), 6, 2.0)
        else:
            bins = torch.randint(-1, 4, (side, pick((1, 2, 7))))
        columns = int(bins.max()) + 1 + pick((0, 1)) or 1
        weight = torch.randn(groups * outs, per, columns).to(dtype).requires_grad_()
        bias = torch.randn(groups * outs).to(dtype).requires_grad_()
        rest = ([stride, stride], [n // 2 + 1 for n in bins.shape], [1, pick((1, 2))], groups)
        try:
            output = binned_conv2d(input, weight, bins, bias, *map(tuple, rest[:3]), groups)
        except ValueError as error:
            assert "must fit" in str(error)
        else:
            grad = lay(torch.randn(output.shape).to(dtype))
            found = torch.autograd.grad(output, (input, weight, bias), grad)
            wide = [t.detach().double().requires_grad_() for t in (input, weight, bias)]
            true = binned.binned_conv(wide[0], wide[1], bins, wide[2], *rest)
            for mine, other in zip((output, *found), (true, *torch.autograd.grad(true, wide, grad.double()))):
                close(mine.detach(), other.detach(), dtype)
            count += 1
        if pick((True, False)):
            sides = [pick((1, 2, 3)) for _ in range(3)]
            bins = torch.randint(-1, columns, sides)
            size = [max(k, pick((1, 2, 5, 9, 17))) for k in sides]
            input = torch.randn(batch, groups * per, *size).to(dtype)
            if pick((True, False)):
                input = input.contiguous(memory_format=torch.channels_last_3d)
            input.requires_grad_()
            weight = weight.detach()[..., :1].repeat(1, 1, columns).requires_grad_()
            rest = ([pick((1, 2)), stride, 1], [pick((0, 1)), 1, 2], [1, 1, 1], groups)
            output = binned_conv3d(input, weight, bins, bias, *map(tuple, rest[:3]), groups)
            grad = torch.randn(output.shape).to(dtype)
            found = torch.autograd.grad(output, (input, weight, bias), grad)
            wide = [t.detach().double().requires_grad_() for t in (input, weight, bias)]
            true = binned.binned_conv(wide[0], wide[1], bins, wide[2], *rest)
            for mine, other in zip((output, *found), (true, *torch.autograd.grad(true, wide, grad.double()))):
                close(mine.detach(), other.detach(), dtype)
            count += 1
            size = [pick((1, 2, 3, 5, 9, 16, 33)) for _ in range(2)]
            input = lay(torch.randn(batch, groups * per, *size).to(dtype)).detach().requires_grad_()
        sets, taps = pick((1, 2, 3)), scaled_taps(pick((1, 2, 3)), (1, 2, 3.5))
        taps = taps[:sets]
        own = (sets,) if pick((True, False)) else ()
        weight = torch.randn(*own, groups * outs, per, taps.shape[1]).to(dtype).requires_grad_()
        fuse = pick(("max", "sum", "concat"))
        bias = torch.randn(groups * outs * (sets if fuse == "concat" else 1)).to(dtype).requires_grad_()
        out = [pick((-(-n // stride), 1, 4)) for n in size]
        offset = lay(torch.randn(batch, sets * 2 * taps.shape[1], *out) * pick((0.5, 5.0))).detach().requires_grad_()
        plain = (list(range(sets)), [stride, stride], groups, fuse, out)
        output, winner = torch.ops.foveal.sampled_conv2d.default(input, weight, taps, offset, bias, *plain)
        grad = lay(torch.randn(output.shape).to(dtype))
        found = torch.autograd.grad(output, (input, weight, offset, bias), grad)
        wide = [t.detach().double().requires_grad_() for t in (input, weight, offset, bias)]
        forced = winner if winner.numel() else None
        if batch:
            true, _ = sampled.sampled_conv(wide[0], wide[1], taps, *wide[2:], *plain, winner=forced)
            for mine, other in zip((output, *found), (true, *torch.autograd.grad(true, wide, grad.double()))):
                close(mine.detach(), other.detach(), dtype)
        count += 1
        # numbers that no address may be made of
        bad = torch.randn(offset.shape)
        for value in (float("nan"), float("inf"), -float("inf"), 3e38, -3e9, 2.0**31, 2.0**30, -(2.0**30), 1e-45):
            bad[torch.rand(bad.shape) < 0.2] = value
        bad.requires_grad_()
        output = sampled_conv2d(
            input, weight, taps, bad, bias, stride=stride, groups=groups, fuse=fuse, output_size=tuple(out)
        )
        torch.autograd.grad(output.float().sum(), (input, weight, bad, bias))
        if pick((True, False)):
            sides, out = [pick((1, 2, 3, 5, 9)) for _ in range(3)], [pick((1, 2, 4)) for _ in range(3)]
            input = torch.randn(batch, groups * per, *sides).to(dtype)
            if pick((True, False)):
                input = input.contiguous(memory_format=torch.channels_last_3d)
            input.requires_grad_()
            taps, points = torch.randn(sets, taps.shape[1], 3) * 2, taps.shape[1]
            parts = pick([n for n in (1, 2, 3, groups * per) if groups * per % n == 0])
            kernel = pick((weight, weight, None))
            bias = torch.randn((groups * outs if kernel is not None else groups * per) * (sets if fuse == "concat" else 1))
            bias = bias.to(dtype).requires_grad_()
            offset = torch.randn(batch, sets * parts * 3 * points, *out) * pick((0.5, 5.0))
            mask = torch.randn(batch, sets * parts * points, *out)
            if pick((True, False)):
                offset, mask = (t.transpose(2, 4).contiguous().transpose(2, 4) for t in (offset, mask))
            more = {"offset_groups": parts, "stride": (1, stride, 2), "groups": 1 if kernel is None else groups, "fuse": fuse}
            more |= {"padding_mode": pick(("zeros", "border")), "output_size": tuple(out)}
            for moves in (offset, bad.detach().flatten()[: offset.numel()]):
                if moves.numel() < offset.numel():
                    continue
                moves = moves.reshape(offset.shape).requires_grad_()
                mask = mask.detach().requires_grad_()
                given = [t for t in (input, kernel, moves, bias, mask) if t is not None]
                output = sampled_conv3d(input, kernel, taps, moves, bias, mask=mask, **more)
                found = torch.autograd.grad(output, given, torch.randn(output.shape).to(dtype))
                if moves is not offset or fuse == "max":
                    continue
                true = sampled_conv3d(input.double(), kernel if kernel is None else kernel.double(), taps, moves.double(),
                                      bias.double(), mask=mask.double(), **more)
                close(output.detach(), true.detach(), dtype)
            count += 1
print("clean", count)
"""


SANITIZERS = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]


def compiled(target, sets, special):
    """Build the sources for some sets, (name, floats a vector, flags), with special flags."""
    flags = ["-std=c11", "-fPIC", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", *special]
    sources = [p for p in sorted(NATIVE.glob("*.c")) if p.name != "dispatch.c"]
    assert len(sources) >= 2
    objects = [target.with_name("dispatch.o")]
    common = ["gcc", *flags, "-c"]
    subprocess.run([*common, "-DISA=base", "-DLANES=4", NATIVE / "dispatch.c", "-o", objects[0]], check=True)
    for name, lanes, more in sets:
        for source in sources:
            objects.append(target.with_name(f"{source.stem}.{name}.o"))
            what = [f"-DISA={name}", f"-DLANES={lanes}", "-w", *more]
            subprocess.run([*common, *what, source, "-o", objects[-1]], check=True)
    subprocess.run(["gcc", "-shared", *special, *objects, "-o", target], check=True)


AVX2 = ["-mavx2", "-mfma"]
AVX512 = ["-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq"]
BUILDS = {
    "own": [("base", 4, []), ("avx2", 8, AVX2), ("avx512", 16, AVX512)],
    # the code for the widest vectors, lowered to those that every machine has
    "wide": [("base", 16, [])],
    # that for matrix tiles, on tiles in memory
    "tiles": [("base", 16, ["-DTILES", "-DEMULATED_TILES"])],
}

# Forward and input gradient in bfloat16 on tiles in memory: the code that runs where the processor has them.
TILES = """
import ctypes, random
import torch
import torch.nn.functional as F
from foveal.geometry import log_polar_bins
from foveal.ops import binned_conv2d
from foveal.ops.binned import cpu
from foveal.ops.native import library

assert library.instruction_sets() == ("base",)
assert library._library().tiles_work_base() == 1
cpu.is_faster = lambda input, *_: cpu.takes(input)
torch.manual_seed(0)
pick = random.Random(0).choice
taken = []
run, library.run = library.run, lambda kernel, *given: (taken.append(kernel.__name__), run(kernel, *given))[1]
for number in range(60):
    groups, stride, dilation = pick((1, 1, 2)), pick((1, 1, 2)), pick((1, 1, 2))
    per, outs = pick((1, 3, 16, 31, 32, 33, 40, 70)), pick((1, 5, 16, 17, 32, 40, 64, 70))
    if per == outs == 1:
        outs = 2
    side, size = pick((3, 5, 9, 13)), [pick((1, 5, 8, 17, 33)) for _ in range(2)]
    bins = log_polar_bins(side, 2, 6, 3.0)
    input = torch.randn(pick((1, 2)), groups * per, *size).bfloat16()
    if pick((True, False)):
        input = input.contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(groups * outs, per, 13).bfloat16(), torch.randn(groups * outs).bfloat16()
    how = dict(stride=stride, padding=dilation * (side // 2), dilation=dilation, groups=groups)
    results = []
    # plain PyTorch in float32, rounded: torch 2.14's own product of bfloat16 on matrix tiles is garbage for strided kernels
    # wider than the map
    for kind in (torch.double, torch.float32, None):
        x, w, b = (t.to(kind or t.dtype).detach().requires_grad_() for t in (input, weight, bias))
        out = binned_conv2d(x, w, bins, b, **how) if kind is None else F.conv2d(x, F.pad(w, (0, 1))[:, :, bins], b, **how)
        grad = torch.ones_like(out) if not results else results[0][0].detach().to(out.dtype)
        results.append((out, torch.autograd.grad(out, x, grad)[0] if results else None))
    truth = F.conv2d(x := input.double().requires_grad_(), F.pad(weight.double(), (0, 1))[:, :, bins], bias.double(), **how)
    true = (truth, torch.autograd.grad(truth, x, truth.detach().bfloat16().double())[0])
    for mine, plain, exact in zip(results[2], results[1], true):
        errors = [float((t.bfloat16().double() - exact).norm() / exact.norm().clamp(min=1e-30)) for t in (mine, plain)]
        assert errors[0] <= 2 * errors[1] + 1e-4, (number, errors, groups, per, outs, side, size, how)
assert taken.count("binned_forward_base") >= 60
print("same")
"""


@pytest.mark.skipif(shutil.which("gcc") is None or sys.platform != "linux", reason="needs gcc")
def test_matrix_tiles_multiply_as_they_should(copied):
    folder, target = copied
    compiled(target, BUILDS["tiles"], ["-O1"])
    done = run_python(TILES, folder)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.split()[-1] == "same"


@NEEDS_KERNELS
def test_tiles_that_give_wrong_products_are_not_used():
    class Wrong:
        binned_forward_amx = tiles_work_amx = staticmethod(lambda: 0)

    with pytest.warns(UserWarning, match="the kernels run on AVX-512"):
        assert not library._works(Wrong(), "amx")
    assert library._works(Wrong(), "avx512")


@pytest.mark.slow
@NEEDS_KERNELS
@pytest.mark.skipif(shutil.which("gcc") is None or sys.platform != "linux", reason="needs gcc and its sanitizers")
@pytest.mark.parametrize("kind", BUILDS)
def test_sanitizers_find_nothing(copied, kind):
    folder, target = copied
    compiled(target, [one for one in BUILDS[kind] if one[0] in SETS], SANITIZERS)
    runtime = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    undefined = subprocess.run(["gcc", "-print-file-name=libubsan.so"], capture_output=True, text=True, check=True)
    script = folder / "campaign.py"
    script.write_text(CAMPAIGN)
    options = "detect_leaks=0:max_malloc_fill_size=1073741824:malloc_fill_byte=255"
    environment = {
        "LD_PRELOAD": f"{runtime.stdout.strip()}:{undefined.stdout.strip()}",
        "ASAN_OPTIONS": options,
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": os.fspath(folder),
    }
    shapes = 60
    done = subprocess.run(
        [sys.executable, script, str(shapes)], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr[-4000:]
    word, count = done.stdout.split()[-2:]
    assert word == "clean"
    assert int(count) >= 1.5 * shapes * (len(SETS) if kind == "own" else 1)
