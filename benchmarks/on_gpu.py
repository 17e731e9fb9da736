"""The parts of on_gpu.sh: what is proved, measured and trained on a machine with a CUDA card, each part with a limit of its own.

Every part runs in a process of its own, which is ended when its time is up; what it found lies in OUT by then: one JSON file a part, and
one log. With --rehearse all of it runs on the CPU, the kernels in Triton's interpreter, with small shapes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
LIMITS = {"smoke": 60, "tests": 150, "bench": 180, "tiles": 130, "speed": 90, "train": 3600}  # seconds
ROWS, RECIPES, SEEDS = "alexnet_c10,alexnet_c10_dilated,alexnet_c10_lpsc", "lpsc/table1a", "0,1,2,3,4"
HOW = "--set train.cuda_graph=true --set train.channels_last=true"  # changes no experiment
SPEED = (
    "lpsc/table1b/resnet20_c10,lpsc/table1b/resnet20_c10_lpsc,lpsc/table1a/alexnet_c10,lpsc/table1a/alexnet_c10_lpsc,"
    "quickstart/conv,quickstart/log_polar"
)
FIRST = (  # the cases of `foveal bench --device cuda` whose goals matter most; the others follow
    "lpsc-k9", "lpsc-k13", "lpsc-k31", "depthwise-k7", "depthwise-k31", "depthwise-k7-free", "depthwise-k7-train", "lpsc-k9-train", "lpsc-k13-train", "lpsc-k31-train",
    "acn-256-bfloat16", "acn-256-bfloat16-train", "acn-deterministic", "rule-k5-64-56", "rule-k9-16-56", "rule-k9-64-14", "rule-k9-256-14",
)  # fmt: skip


def write(path: Path, content: object) -> None:
    """A file that is whole or the old one: the machine may be gone at any moment."""
    made = path.with_name(f".{path.name}")
    made.write_text(json.dumps(content, indent=1) + "\n")
    made.replace(path)


# ---- the parts ----


def smoke(chosen: argparse.Namespace) -> None:
    """What is there, what the card does at most, and whether each kernel gives what its definition does in float64."""
    import torch

    from foveal.training.environment import environment

    found: dict[str, Any] = {"environment": environment(torch.device(chosen.device)), "checks": {}, "figures": {}}
    path = chosen.out / "smoke.json"
    write(path, found)
    found["environment"]["triton"] = _version("triton")
    found["mps"] = any(os.access(f"{folder}/nvidia-cuda-mps-control", os.X_OK) for folder in os.get_exec_path())
    for name, check in (("binned", _check_binned), ("sampled", _check_sampled)):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for channels in (8,) if chosen.rehearse else (64, 24):
                key = f"{name}, {str(dtype).removeprefix('torch.')}, {channels} channels"
                try:
                    errors = check(chosen.device, dtype, channels, 6 if chosen.rehearse else 28)
                    found["checks"][key] = {"relative_errors": errors, "right": max(errors.values()) < 0.02}
                except Exception as error:
                    found["checks"][key] = {"problem": f"{type(error).__name__}: {str(error)[:2000]}", "right": False}
                print(key, found["checks"][key], flush=True)
                write(path, found)
    for name, figure in (("card", _ceilings), ("host", _host_costs)):
        try:
            found["figures"][name] = figure(chosen)
        except Exception as error:
            found["figures"][name] = {"problem": f"{type(error).__name__}: {error}"}
        print(name, found["figures"][name], flush=True)
        write(path, found)
    if not all(check["right"] for check in found["checks"].values()):
        raise SystemExit("a kernel is wrong")


def _relative(found: Sequence[Any], exact: Sequence[Any], names: Sequence[str]) -> dict[str, float]:
    pairs = zip(names, found, exact, strict=True)
    return {name: float((mine.double() - want).norm() / want.norm()) for name, mine, want in pairs}


def _check_binned(device: str, dtype: Any, channels: int, side: int) -> dict[str, float]:
    """Relative errors of a log-polar layer's kernels, called without the rule that may send them elsewhere."""
    import torch

    from foveal.geometry import log_polar_bins
    from foveal.ops.binned import gpu, op, reference

    bins = log_polar_bins(9, 2, 6, 2.0).to(device)
    input = torch.randn(2, channels, side, side).to(device, dtype).contiguous(memory_format=torch.channels_last)
    weight, plain = torch.randn(channels, channels, 13).to(device, dtype), ([1, 1], [4, 4], [1, 1], 1)
    room = op._forward_shape(input, weight, bins, None, *plain)
    output = gpu.convolve(input, weight, bins, None, room, *plain)
    grad = torch.randn_like(output)
    found = (
        output,
        gpu.input_gradient(grad, weight, bins, torch.empty_like(input), *plain),
        gpu.weight_gradient(grad, input, weight, bins, *plain),
    )
    wide = [tensor.double() for tensor in (grad, input, weight)]
    exact = reference.binned_conv(*wide[1:], bins, None, *plain)
    both = reference.binned_conv_backward(*wide, bins, *plain, [True, True])
    return _relative(found, (exact, *both), ("output", "input", "weight"))


def _check_sampled(device: str, dtype: Any, channels: int, side: int) -> dict[str, float]:
    """The same of an anisotropic layer with two scales, whose sum has no ties to be broken otherwise."""
    import torch

    from foveal.ops.sampled import gpu, op, reference

    taps = torch.tensor([[[y * s, x * s] for y in (-1, 0, 1) for x in (-1, 0, 1)] for s in (1, 2)]).float().to(device)
    input = torch.randn(2, channels, side, side).to(device, dtype).contiguous(memory_format=torch.channels_last)
    weight = (torch.randn(channels, channels, 9) * 0.05).to(device, dtype)
    offset = (torch.randn(2, 36, side, side) * 0.7).to(device)
    plain = reference.Plain([0, 1], [1, 1], 1, "sum", [side, side])
    output, winner = op._forward_shape(input, weight, taps, offset, None, *plain)
    gpu.forward(input, weight, taps, offset, None, output, winner, plain)
    grad, wanted = torch.randn_like(output), [True, True, True, False]
    found = op._backward_shape(grad, input, weight, taps, offset, winner, wanted, *plain)
    gpu.backward(grad, input, weight, taps, offset, winner, plain, wanted, found)
    wide = [tensor.double() for tensor in (input, weight, offset)]
    exact, won = reference.sampled_conv(wide[0], wide[1], taps.double(), wide[2], None, *plain)
    both = reference.sampled_conv_backward(grad.double(), *wide[:2], taps.double(), wide[2], won, plain, wanted)
    return _relative((output, *found[:3]), (exact, *both[:3]), ("output", "input", "weight", "offset"))


def _ceilings(chosen: argparse.Namespace) -> dict[str, float]:
    """Bytes a second of a large copy, read and written, and operations a second of a large product of halves."""
    import torch

    if chosen.rehearse:
        return {}
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda").random_()
    room = torch.empty_like(source)
    one, two = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    copy, product = _device_seconds(lambda: room.copy_(source)), _device_seconds(lambda: one @ two)
    return {"copy_bytes_per_s": 2 * 2**30 / copy, "bfloat16_flops": 2 * 8192**3 / product}


def _device_seconds(call: Callable[[], object], repeats: int = 10) -> float:
    import torch

    for _ in range(3):
        call()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / repeats


def _host_costs(chosen: argparse.Namespace) -> dict[str, float]:
    """Microseconds of the host for a call on a small map, whose work on the device takes less."""
    import torch
    import torch.nn.functional as F

    from foveal.geometry import log_polar_bins
    from foveal.ops import anisotropic_conv2d, binned_conv2d

    x = torch.randn(1, 64, 7, 7, device=chosen.device, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    bins = log_polar_bins(9, 2, 6, 2.0).to(chosen.device)
    dense, points, tied = (torch.randn(64, 64, *taps).to(x) for taps in ((3, 3), (3, 3), (13,)))
    offset = torch.zeros(1, 36, 7, 7, device=chosen.device)
    calls = {
        "F.conv2d": lambda x: F.conv2d(x, dense, padding=1),
        "binned_conv2d": lambda x: binned_conv2d(x, tied, bins, padding=4),
        "anisotropic_conv2d": lambda x: anisotropic_conv2d(x, points, offset, scales=(1, 2)),
    }
    found = {}
    for name, call in calls.items():
        for grad in (False, True):
            given = x.clone().requires_grad_(grad)

            def once(call: Callable[[Any], Any] = call, given: Any = given, grad: bool = grad) -> None:
                y = call(given)
                if grad:
                    torch.autograd.grad(y, given, y.detach())

            times = []
            for _ in range(2 if chosen.rehearse else 60):
                start = time.perf_counter()
                once()
                times.append(time.perf_counter() - start)
            found[f"{name}{', with gradient of the input' if grad else ''}"] = sorted(times)[len(times) // 2] * 1e6
    return found


def _version(package: str) -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def tests(chosen: argparse.Namespace) -> None:
    """`pytest -m gpu` in several processes; each test's outcome is in the file as soon as it is known."""
    picked = ["tests/ops/binned/test_gpu.py", "tests/ops/sampled/test_gpu.py"]
    mark = "not slow and not gpu" if chosen.rehearse else "gpu"
    if not chosen.rehearse:
        picked += [
            "tests/bench/test_gpu.py",
            "tests/training/test_engine.py",
            "tests/data/test_loader.py",
            "tests/analysis/test_cost.py",
        ]
    keep = ["-k", "empty_batch or stay_in_the_range or NaN or follows"] if chosen.rehearse else []
    command = [
        "-m",
        "pytest",
        "-v",
        "-m",
        mark,
        *keep,
        "-n",
        str(chosen.processes),
        "--tb=short",
        "--color=no",
        "--maxfail=60",
        "-p",
        "no:benchmark",
        *picked,
    ]
    found: dict[str, Any] = {"passed": [], "failed": {}, "skipped": [], "finished": False, "seconds": 0.0}
    path, start = chosen.out / "tests.json", time.monotonic()
    write(path, found)
    # other plugins than these may warn, and warnings are errors
    command += ["-p", "xdist", "-W", "default"]
    plain = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    process = subprocess.Popen(
        [sys.executable, *command], env=plain, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines = []
    assert process.stdout
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
        told = re.search(r"\] *(PASSED|FAILED|ERROR|SKIPPED) (\S.*)", line) or re.match(
            r"(PASSED|FAILED|ERROR) (\S.*)", line
        )
        if told is None:
            continue
        outcome, name = told[1], told[2].strip()
        if outcome == "PASSED":
            found["passed"].append(name)
        elif outcome == "SKIPPED":
            found["skipped"].append(name)
        else:
            found["failed"].setdefault(name.partition(" - ")[0], "")
        found["seconds"] = time.monotonic() - start
        write(path, found)
    process.wait()
    text = "".join(lines)
    for name in found["failed"]:
        title = name.partition("::")[2].replace("::", ".")
        told = re.search(rf"^_+ {re.escape(title)} _+\n(.*?)(?=^_{{3,}} |^={{3,}} )", text, re.MULTILINE | re.DOTALL)
        found["failed"][name] = told[1][-3000:] if told else ""
    found |= {"finished": True, "seconds": time.monotonic() - start, "end": lines[-1].strip() if lines else ""}
    write(path, found)
    if process.returncode:
        raise SystemExit(f"pytest ended with {process.returncode}: {len(found['failed'])} failed")


def bench(chosen: argparse.Namespace) -> None:
    """The cases of `foveal bench --device cuda`, the first ones first, quickly; then compiled already by other processes."""
    import fnmatch

    from foveal.bench import gpu

    cases = chosen.cases.split(",") if chosen.cases else list(dict.fromkeys([*FIRST, *gpu.CASES]))
    names = [name for pattern in cases for name in gpu.CASES if fnmatch.fnmatchcase(name, pattern)]
    if chosen.rehearse:
        names = (
            names[:2]
            + [name for name in names if name in ("acn-256-bfloat16", "acn-deterministic") or "depthwise" in name][:4]
        )
    helpers = [] if chosen.rehearse else _helpers("compile_case", names, chosen)
    path, end = chosen.out / "bench.json", time.monotonic() + chosen.seconds
    found: dict[str, Any] = {"environment": {}, "rows": [], "left_out": {}, "failed": {}, "interrupted": True}
    pause = time.monotonic() + min(60.0, chosen.seconds / 3)
    while (
        any(helper.poll() is None for helper in helpers) and time.monotonic() < pause
    ):  # figures need a card of their own
        time.sleep(0.2)
    _end(helpers)
    for name in names:
        if time.monotonic() > end - 8:
            found["left_out"]["time was up before"] = ", ".join(names[names.index(name) :])
            break
        start = time.monotonic()
        one = _rehearsed(name) if chosen.rehearse else gpu.run_gpu(name, quick=True)
        found["environment"] = found["environment"] or {
            **one["environment"],
            "command": "benchmarks/on_gpu.sh --parts bench",
        }
        found["rows"] += one["rows"]
        for key in ("left_out", "failed"):
            found[key] |= one[key]
        write(path, found)
        for row in one["rows"]:
            met = {True: "met", False: "NOT MET", None: ""}[row["met"]]
            print(
                f"{name:24} {row['what']:44} {row['figure']:9.3g} {row['unit']:9} {row['bar'] or '':7} {met}",
                flush=True,
            )
        for key, reason in one["failed"].items():
            print(f"{key} FAILED: {reason}", flush=True)
        print(f"{name}: {time.monotonic() - start:.1f} s", flush=True)
    found["interrupted"] = False
    write(path, found)


def _rehearsed(name: str) -> dict[str, Any]:
    """A case on the CPU with a small shape."""
    import functools

    from foveal.bench import gpu
    from foveal.bench.timing import Case, Watch, measure

    call = gpu.CASES[name].measure
    given = {**call.keywords, "shape": (1, 16, 6, 5)}  # type: ignore[attr-defined]
    case = Case("rehearsal", functools.partial(call.func, **given))  # type: ignore[attr-defined]
    return {"environment": {"gpu": None}, **measure({name: case}, name, Watch(1, True), None)}


def compile_case(chosen: argparse.Namespace) -> None:
    """Call a case's own op once, so that its kernels are in Triton's cache when they are timed."""
    import torch

    from foveal.bench import gpu

    class CompiledError(Exception):
        pass

    class Once(gpu.GpuWatch):
        def medians(self, sides: Any) -> Any:
            for way in sides["ours"]:
                way()
            torch.cuda.synchronize()
            raise CompiledError

    for name in chosen.names.split(","):
        try:
            for _ in gpu.CASES[name].measure(Once(True)):
                pass
        except CompiledError:
            pass
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {str(error)[:300]}", flush=True)
        torch.cuda.empty_cache()


def tiles(chosen: argparse.Namespace) -> None:
    """Which tiles are fastest, of those next to the rule's; compiled by several processes first."""
    command = [
        sys.executable,
        HERE / "tune_gpu.py",
        "--quick",
        "--json",
        chosen.out / "tiles.json",
        "--most",
        str(chosen.most),
    ]
    if chosen.rehearse:
        command += ["--case", "lpsc-k9", "--shape", "1", "3", "4", "4", "--dtype", "float32", "--most", "2"]
    else:
        command += ["--processes", str(chosen.processes), "--seconds", str(chosen.seconds - 10)]
    subprocess.run(command, check=True)


def speed(chosen: argparse.Namespace) -> None:
    """Images a second of training, one run at a time: networks as they are and with layers of ours."""
    short = "--set train.epochs=3 --set train.milestones=[2]"
    rows = [f"{recipe} {'' if recipe.startswith('quickstart') else short}" for recipe in chosen.speed.split(",")]
    jobs = [f"{row} {how}" for row in rows for how in chosen.how]
    jobs += [
        rows[0],
        f"{rows[0]} {chosen.how[0]} --set train.amp=bfloat16",
        f"{rows[1]} {chosen.how[0]} --set train.amp=bfloat16",
    ]
    jobs = [f"{job} --out speed{number}" for number, job in enumerate(jobs)]
    _train(chosen, "speed", jobs, 1)


def train(chosen: argparse.Namespace) -> None:
    """Rows at full length, seed after seed, several at a time, each as soon as another has ended."""
    if chosen.jobs:
        text = chosen.jobs.read_text().splitlines()
        jobs = [line.split("#")[0].strip() for line in text if line.split("#")[0].strip()]
        jobs = [re.sub(r"^foveal train +", "", job) for job in jobs]
    else:
        jobs = [
            f"{recipes}/{row} --seed {seed} {' '.join(chosen.how[:1])}"
            for seed in chosen.seeds.split(",")
            for recipes in chosen.recipes.split(",")
            for row in chosen.rows.split(",")
        ]
    _train(chosen, "train", jobs, chosen.side_by_side)


def _train(chosen: argparse.Namespace, part: str, jobs: list[str], most: int) -> None:
    """Run jobs, so many at a time; what each gave goes to the file when it ends, and the table of all at the end."""
    end = time.monotonic() + chosen.seconds
    work = Path(chosen.work or tempfile.mkdtemp(prefix="foveal-", dir=_fast_folder()))
    with _served(chosen.mps and not chosen.rehearse, work):
        _run_jobs(chosen, part, jobs, most, end, work)


def _fast_folder() -> str | None:
    """Where writing costs next to nothing: memory, if there is enough."""
    return "/dev/shm" if os.path.isdir("/dev/shm") and shutil.disk_usage("/dev/shm").free > 2**33 else None


@contextlib.contextmanager
def _served(wanted: bool, work: Path) -> Iterator[None]:
    """With NVIDIA's multi-process service, if that is wanted and starts: kernels of several processes then run side by side."""
    places = {"CUDA_MPS_PIPE_DIRECTORY": str(work / "mps"), "CUDA_MPS_LOG_DIRECTORY": str(work / "mps-log")}
    started = False
    if wanted:
        for place in places.values():
            Path(place).mkdir(parents=True)
        try:
            subprocess.run(["nvidia-cuda-mps-control", "-d"], env=os.environ | places, check=True, timeout=20)
            started = True
            os.environ |= places
        except (OSError, subprocess.SubprocessError) as error:
            print(f"without the multi-process service: {error}", flush=True)
    try:
        yield
    finally:
        if started:
            subprocess.run(["nvidia-cuda-mps-control"], input=b"quit\n", check=False, timeout=20)


def _run_jobs(chosen: argparse.Namespace, part: str, jobs: list[str], most: int, end: float, work: Path) -> None:
    path, runs = chosen.out / f"{part}.json", []
    left = {
        "gpu": [job for job in jobs if "--device cpu" not in job],
        "cpu": [job for job in jobs if "--device cpu" in job],
    }
    room = {"gpu": most, "cpu": chosen.cpu_side}
    same = ["--one", "one_run", "--out", str(chosen.out), "--work", str(work), *["--rehearse"] * chosen.rehearse]
    same += ["--data", str(chosen.data)] if chosen.data else []
    going: list[tuple[subprocess.Popen[bytes], str, str, float]] = []
    cut = False
    while going or (any(left.values()) and not cut):
        for kind, waiting in left.items():
            while waiting and not cut and sum(k == kind for _, _, k, _ in going) < room[kind]:
                job = waiting.pop(0)
                process = subprocess.Popen([sys.executable, __file__, *same, "--job", job])
                going.append((process, job, kind, time.monotonic()))
        time.sleep(0.1)
        for each in [each for each in going if each[0].poll() is not None]:
            going.remove(each)
            process, job, _, start = each
            facts = {"code": process.returncode, "wall_seconds": time.monotonic() - start, "beside": len(going)}
            runs.append({"job": job, **facts})
            print(f"{part}: {job}: {facts}", flush=True)
            _collect(path, work, runs, left)
        if time.monotonic() > end - 15 and not cut:
            cut = True
            for process, *_ in going:
                process.send_signal(signal.SIGTERM)  # saves, and ends
        if time.monotonic() > end - 4:
            _end([process for process, *_ in going])
    _collect(path, work, runs, left)


def _collect(path: Path, work: Path, runs: list[dict[str, Any]], left: dict[str, list[str]]) -> None:
    """The tables of all that ended, as `foveal report --json` makes them, and each run's curve."""
    from foveal.reports.write import write_json

    found: dict[str, Any] = {
        "jobs": runs,
        "not_begun": [job for waiting in left.values() for job in waiting],
        "tables": {},
        "curves": {},
    }
    for table in sorted(path for path in work.iterdir() if path.is_dir() and not path.name.startswith("mps")):
        try:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "quick_changed.json"  # the name that tables of quick or changed rows must have
                write_json(table, file)
                found["tables"][table.name] = json.loads(file.read_text())
        except Exception as error:  # nothing has ended there yet
            found["tables"][table.name] = f"{type(error).__name__}: {error}"
        for curve in sorted(table.glob("*/seed*/metrics.csv")):
            found["curves"][str(curve.parent.relative_to(work))] = curve.read_text()
    write(path, found)


def one_run(chosen: argparse.Namespace) -> None:
    """One job: a recipe, a seed and what is set; as `foveal train` would, which has no single seed."""
    import shlex

    import torch

    from foveal.recipes.load import find_recipes
    from foveal.training import fit, load_recipe
    from foveal.training.signals import Interrupted

    parser = argparse.ArgumentParser()
    parser.add_argument("recipe")
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out")
    parser.add_argument("--set", action="append", default=[])
    job = parser.parse_args(shlex.split(chosen.job))
    os.environ.setdefault("FOVEAL_DATA", str(chosen.data or "data"))
    torch.set_num_threads(1)
    for path in find_recipes(job.recipe):
        changes = list(job.set)
        if "data.root" not in " ".join(changes):
            row = load_recipe(path, changes, quick=job.quick)
            if row.data.name == "cifar10":  # the same images, as arrays
                changes += ["data.name=npz", "data.root=$FOVEAL_DATA/cifar10", "data.download=false"]
        if chosen.rehearse:
            changes += (
                ["data.limit=256", "train.epochs=2", "train.milestones=[1]"]
                if "quick" not in chosen.job
                else ["train.epochs=1"]
            )
        recipe = load_recipe(path, changes, quick=job.quick)
        table = job.out or "_".join(job.recipe.split("/")[:-1]) or job.recipe
        for seed in job.seed or range(job.seeds or 1):
            try:
                result = fit(recipe, Path(chosen.work) / Path(table).name, seed=seed, device=job.device)
            except Interrupted as stopped:
                raise SystemExit(f"{chosen.job}: {stopped}") from None
            shown = {key: result[key] for key in ("test_accuracy", "train_images_per_s", "seconds") if key in result}
            print(f"{recipe.name} seed {seed}: {shown}", flush=True)


# ---- what starts them ----


def _helpers(name: str, names: list[str], chosen: argparse.Namespace) -> list[subprocess.Popen[bytes]]:
    """Processes that share out names: the first of each comes early."""
    found = []
    for k in range(min(chosen.processes, len(names))):
        command = [
            sys.executable,
            __file__,
            "--one",
            name,
            "--out",
            str(chosen.out),
            "--names",
            ",".join(names[k :: chosen.processes]),
        ]
        found.append(subprocess.Popen(command))
    return found


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()


def run_part(name: str, limit: float, arguments: list[str], log: Path) -> dict[str, Any]:
    """Run a part in a process group of its own until it ends or its time is up; its output goes to the log and here."""
    start = time.monotonic()
    command = [sys.executable, __file__, "--one", name, "--seconds", str(limit), *arguments]
    with log.open("ab") as file:
        file.write(f"\n==== {name}, at most {limit:.0f} s ====\n".encode())
        file.flush()
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, cwd=ROOT)
        try:
            code: int | str = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = "time was up"
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return {"code": code, "seconds": time.monotonic() - start}


def summary(out: Path, ended: dict[str, Any]) -> str:
    """A short table of what there is."""
    lines = [f"{name:6} code {what['code']}, {what['seconds']:.0f} s" for name, what in ended.items()]

    def there(name: str) -> Any:
        return json.loads((out / f"{name}.json").read_text()) if (out / f"{name}.json").exists() else {}

    wrong = [name for name, check in there("smoke").get("checks", {}).items() if not check["right"]]
    if there("smoke"):
        lines += [
            f"smoke: {len(there('smoke')['checks'])} checks, wrong: {wrong or 'none'}; {json.dumps(there('smoke')['figures'])}"
        ]
    found = there("tests")
    if found:
        lines.append(
            f"tests: {len(found['passed'])} passed, {len(found['failed'])} failed, {len(found['skipped'])} skipped"
        )
        for name, told in list(found["failed"].items())[:40]:
            last = [line for line in told.splitlines() if line.startswith("E ")]
            lines.append(f"  FAILED {name.rpartition('/')[2]}: {last[0][:160] if last else ''}")
    for row in there("bench").get("rows", []):
        if row["bar"]:
            met = "met" if row["met"] else "NOT MET"
            lines.append(
                f"  {row['case']:24} {row['ours_ms']:9.4f} ms {row['figure']:8.3g} {row['unit']:9} {row['bar']:7} {met}"
            )
    for name, reason in there("bench").get("failed", {}).items():
        lines.append(f"  {name} FAILED: {reason[:200]}")
    for part in there("tiles").get("tiles", []):
        rows = [row for row in part["rows"] if "ms" in row]
        ours = next((row["ms"] for row in rows if row["tile"] is None), None)
        if ours is not None and rows:
            lines.append(
                f"  {part['case']} {part['kernel']}: rule {ours:.4f} ms, best {rows[0]['ms']:.4f} ms {rows[0]['tile'] or 'the rule'}"
            )
    for part in ("speed", "train"):
        for title, table in there(part).get("tables", {}).items():
            for row in table["rows"] if isinstance(table, dict) else []:
                for one in row["runs"]:
                    facts = [
                        f"{key} {one[key]:.4g}"
                        for key in ("test_accuracy", "best_test_accuracy", "train_images_per_s", "seconds")
                        if one.get(key)
                    ]
                    lines.append(
                        f"  {title} {row['name']} seed {one['seed']}: {', '.join(facts)} {one.get('state', '')}"
                    )
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="benchmarks/on_gpu.sh")
    parser.add_argument("--parts", default="smoke,tests,bench,tiles,speed,train", help="which, in this order")
    parser.add_argument("--minutes", type=float, default=9.0, help="for all parts together")
    parser.add_argument(
        "--limit", action="append", default=[], metavar="PART=SECONDS", help="instead of a part's own limit"
    )
    parser.add_argument("--rehearse", action="store_true", help="on the CPU with small shapes")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "on_gpu")))
    parser.add_argument("--data", type=Path, help="folder of the data: cifar10/train.npz and test.npz there")
    parser.add_argument(
        "--processes", type=int, default=max(2, min(12, (os.cpu_count() or 2) - 2)), help="of tests, and that compile"
    )
    parser.add_argument("--cases", help="of the benchmark, patterns with commas between")
    parser.add_argument("--most", type=int, default=14, help="tiles tried for a kernel")
    parser.add_argument("--rows", default=ROWS)
    parser.add_argument("--seeds", default=SEEDS)
    parser.add_argument("--recipes", default=RECIPES)
    parser.add_argument(
        "--how", action="append", default=[], help="more words of each training job, such as '--set train.amp=bfloat16'"
    )
    parser.add_argument("--speed", default=SPEED, help="recipes of the part speed")
    parser.add_argument(
        "--jobs", type=Path, help="file with a `foveal train` command a line, instead of rows and seeds"
    )
    parser.add_argument("--side-by-side", type=int, default=4, help="runs on the card at a time")
    parser.add_argument(
        "--mps", action="store_true", help="runs on the card share it by NVIDIA's multi-process service"
    )
    parser.add_argument(
        "--cpu-side",
        type=int,
        default=max(1, (os.cpu_count() or 2) - 6),
        help="runs of --jobs with --device cpu at a time",
    )
    parser.add_argument("--work", help="folder of the runs; by default a temporary one in memory")
    for name in ("one", "job", "names"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=60.0, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    chosen.device = "cpu" if chosen.rehearse else "cuda"
    chosen.out = chosen.out.resolve()
    chosen.how = chosen.how or [HOW]
    chosen.out.mkdir(parents=True, exist_ok=True)
    if chosen.rehearse:
        os.environ["TRITON_INTERPRET"] = "1"
        chosen.processes = min(chosen.processes, 2)
        chosen.side_by_side = min(chosen.side_by_side, 2)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if chosen.one:
        globals()[chosen.one](chosen)
        return
    parts = chosen.parts.split(",")
    if unknown := set(parts) - set(LIMITS):
        raise SystemExit(f"--parts must name some of {', '.join(LIMITS)}; got {', '.join(sorted(unknown))}")
    limits = LIMITS | {name: float(value) for name, _, value in (word.partition("=") for word in chosen.limit)}
    end, ended, log = time.monotonic() + 60 * chosen.minutes, {}, chosen.out / "log.txt"
    passed = [word for word in arguments if word]
    for part in parts:
        left = end - time.monotonic() - 3
        if left < 10:
            ended[part] = {"code": "no time was left", "seconds": 0.0}
            continue
        print(f"{part} ...", flush=True)
        ended[part] = run_part(part, min(left, limits[part]), passed, log)
        print(f"{part}: code {ended[part]['code']}, {ended[part]['seconds']:.0f} s", flush=True)
    table = summary(chosen.out, ended)
    with log.open("a") as file:
        file.write(f"\n{table}\n")
    print(table, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
