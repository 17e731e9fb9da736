"""Commands about what is there and how fast it is: list, bench, doctor."""

# torch takes a second to import, so everything of foveal is imported inside the commands: --help must be instant.
from __future__ import annotations

import enum
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from foveal.cli.extras import DISTRIBUTIONS, EXTRAS, NEEDED, cure, explained
from foveal.cli.terminal import make_console, say, tell


class Listed(enum.StrEnum):
    models = "models"
    layers = "layers"
    recipes = "recipes"
    datasets = "datasets"


def list_names(
    what: Annotated[Listed | None, typer.Argument(help="One kind only, with more about each.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Models of torchvision and timm, too.")] = False,
) -> None:
    """List models, layers, recipes and data sets.

    Of one kind it also tells parameters and source of models, arguments of layers, how the files of data sets lie, and titles of
    recipes with how long they train.
    """
    import foveal
    from foveal.data.layouts import LAYOUTS
    from foveal.models import list_models
    from foveal.recipes.load import list_recipes

    sources: dict[Listed, Callable[[], Any]] = {
        Listed.models: lambda: list_models(all=every),
        Listed.layers: lambda: list(foveal.LAYERS),
        Listed.recipes: list_recipes,
        Listed.datasets: lambda: list(dict.fromkeys(layout.name for layout in LAYOUTS)),
    }
    about: dict[Listed, Callable[[str], list[tuple[str, str]]]] = {
        Listed.models: _about_model,
        Listed.layers: _about_layer,
        Listed.datasets: _about_dataset,
        Listed.recipes: _about_recipe,
    }
    if every and what not in (None, Listed.models):
        raise ValueError(f"--all is for models; {what.value if what else ''} are listed whole without it")
    for kind in [what] if what else Listed:
        if what is None:
            tell(f"{kind.value}:")
        for name in sources[kind]():
            tell(name if what else f"  {name}")
            if what and not every and kind in about:
                for key, text in about[kind](name):
                    tell(textwrap.fill(f"  {key:<11}{text}", 80, subsequent_indent=" " * 13, break_on_hyphens=False))


def _about_model(name: str) -> list[tuple[str, str]]:
    import torch

    from foveal.models import create_model
    from foveal.models.factory import describe_model

    try:
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in create_model(name).parameters())
        told = f"{count:,} with 10 classes"
    except ImportError as error:
        told = explained(error)
    return [("parameters", told), ("source", describe_model(name))]


def _about_layer(name: str) -> list[tuple[str, str]]:
    from foveal.surgery import layer_arguments

    kind = "RoIAlign" if name == "deformable_roi_pool" else "Conv2d"
    size = ", kernel_size: 9" if name == "log_polar" else ""  # the old window has no room for its bins
    plan = f"convert: {{'type:{kind}': {{layer: {name}{size}}}}}"
    return [("arguments", ", ".join(layer_arguments(name))), ("recipe", plan)]


def _about_recipe(name: str) -> list[tuple[str, str]]:
    from foveal.recipes.load import find_recipes, load_row
    from foveal.recipes.schema import Quoted

    (path,) = find_recipes(name)
    row = load_row(path)
    title = [("title", row.title or row.name)]
    if isinstance(row, Quoted):
        return [*title, ("cost", "published only, nothing to train")]

    def cost(seeds: int, epochs: int) -> str:
        return f"{seeds} seed{'s' if seeds > 1 else ''} of {epochs} epoch{'s' if epochs > 1 else ''}"

    told = f"{cost(row.seeds, row.train.epochs)} of {row.data.name} for {row.model.name}"
    if row.quick is not None:
        short = load_row(path, quick=True)
        told += f"; --quick: {cost(short.seeds, short.train.epochs)} of {short.data.name}"  # type: ignore[union-attr]
        told += f", {short.data.limit} images" if short.data.limit else ""  # type: ignore[union-attr]
    return [*title, ("cost", told)]


def _about_dataset(name: str) -> list[tuple[str, str]]:
    from foveal.data.layouts import LAYOUTS

    return [
        line
        for layout in LAYOUTS
        if layout.name == name
        for line in (("task", layout.task), ("files", layout.lies), ("keys", layout.keys), ("recipe", layout.recipe))
    ]


def bench(
    case: Annotated[str, typer.Option(help="Which cases, as a pattern: 'lpsc-*'.")] = "*",
    quick: Annotated[bool, typer.Option("--quick", help="A short run, for a first look.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads; with one, its CPU time is the clock.")] = 1,
    device: Annotated[str, typer.Option(help="cpu, or cuda: other cases, beside cuDNN and torchvision.")] = "cpu",
    out: Annotated[Path | None, typer.Option("--json", help="File for the figures and the hardware.")] = None,
) -> None:
    """Measure the ops beside PyTorch's own and other libraries'.

    Each figure stands beside its bar. Ctrl-C keeps what was measured.
    """
    from foveal import bench as measured

    if device not in ("cpu", "cuda"):
        raise ValueError(f"--device must be cpu or cuda; got {device!r}")
    if out is not None and (out.is_dir() or not out.resolve().parent.is_dir()):
        raise FileNotFoundError(f"--json must name a file in a folder that exists; got {out}")
    console = make_console()
    with console.status("starting", refresh_per_second=1) as status:  # seldom, so that it takes no time of the ops

        def show(index: int, cases: int, name: str) -> None:
            text = f"{index + 1}/{cases} {name}"
            status.update(text) if console.is_terminal else say(text)

        if device == "cuda":
            results = measured.run_gpu(case, quick=quick, progress=show)
        else:
            results = measured.run(case, threads=threads, quick=quick, progress=show)
    measured.print_table(results, console)
    if out is not None:
        measured.write(results, out)
    if results["interrupted"]:
        raise KeyboardInterrupt
    if results["failed"]:
        raise typer.Exit(1)


def tune(
    model: Annotated[str | None, typer.Argument(help="A network by name.  [default: layers of many sizes]")] = None,
    plan: Annotated[
        str | None, typer.Option(help="What to convert: a YAML file (a plan or a recipe), or YAML itself.")
    ] = None,
    input_size: Annotated[
        str, typer.Option(metavar="C,H,W", help="Channels, height and width of an image.")
    ] = "3,224,224",
    batch: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 32,
    dtype: Annotated[str, typer.Option(help="float32, or float16 or bfloat16 by autocast.")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    clear: Annotated[bool, typer.Option("--clear", help="Remove the profile of the device.")] = False,
) -> None:
    """Measure how log-polar layers are fastest on this machine.

    Each shape by its kernels and by the dense convolution, forward and gradients. The profile lies in the user's cache
    directory; it is read by later programs on this device with these versions. Example: foveal tune cifar_resnet20 --plan
    '{conv1: {layer: log_polar, kernel_size: 9}}' --input-size 3,32,32
    """
    import torch

    import foveal
    from foveal.bench import tune as measured
    from foveal.models import create_model
    from foveal.ops import profile
    from foveal.recipes.load import load_plan
    from foveal.training.environment import pick_device

    chosen = pick_device(device)
    path = profile.place(chosen)
    if clear:
        tell(f"removed {path}" if path.exists() else f"there is none: {path}")
        path.unlink(missing_ok=True)
        return
    if dtype not in ("float32", "float16", "bfloat16"):
        raise ValueError(f"--dtype must be float32, float16 or bfloat16; got {dtype!r}")
    sides = [int(word) if word.strip().isdigit() else 0 for word in input_size.split(",")]
    if len(sides) != 3 or min(sides) < 1:
        raise ValueError(f"--input-size must be three whole numbers from 1, as in 3,224,224; got {input_size!r}")
    if model is None and plan is not None:
        raise ValueError("--plan is for a network: name one, as in foveal tune resnet18 --plan PLAN")
    networks = measured.standard(batch)
    if model is not None:
        network = foveal.convert(create_model(model, in_channels=sides[0]), load_plan(plan) if plan else {})
        networks = iter([(network, torch.randn(batch, *sides))])
    calls = measured.calls_of(networks, chosen, getattr(torch, dtype))
    if not calls:
        raise ValueError(
            f"{model} has no layer that {chosen.type} has kernels for; --plan makes some, see foveal list layers"
        )
    content = measured.tune(calls, chosen, lambda index, number, name: say(f"{index + 1}/{number} {name}"))
    for name, times in content["times"].items():
        told = ", ".join(f"{way} {time:.4g} ms" for way, time in times.items())
        tell(f"{content['ways'][name]:<7}{told}  {name}")
    tell(f"profile: {path}")


def doctor() -> None:
    """Show what is installed, what is missing, and the cure.

    Versions, devices, implementations of the ops, disk and data sets.
    """
    import platform
    import shutil

    cures = []
    tell(f"{'python':<17}{platform.python_version()}  {sys.executable}")
    for package in (*NEEDED, *(module for modules in EXTRAS.values() for module in modules)):
        version, problem = _installed(package)
        tell(f"{package:<17}{version}{f'  {problem}' if problem else ''}")
        if problem:
            name = DISTRIBUTIONS.get(package, package)
            cures.append(f"pip install --upgrade {name}" if version != "missing" else cure(package))
    if _installed("torch")[1] == "":
        import torch

        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        tell(f"{'devices':<17}cpu with {torch.get_num_threads()} threads; CUDA: {', '.join(names) or 'none'}")
        tell(f"{'processes':<17}{_processes()}")
        from foveal.ops.native import library

        compiled = ", ".join(library.instruction_sets())
        tell(
            f"{'CPU kernels':<17}{f'compiled for {compiled}' if compiled else 'plain PyTorch (a C compiler is needed)'}"
        )
        tell(f"{'GPU kernels':<17}{'plain PyTorch' if _imports('foveal.ops.binned.gpu') else 'Triton'}")
        from foveal.ops import profile, take_over

        if take_over.taken_over():  # in this program, by an import that asks for it
            tell(f"{'taken over':<17}{', '.join(take_over.taken_over())} run on foveal's kernels")
        for device in [torch.device("cpu"), *(torch.device("cuda", index) for index in range(len(names)))]:
            ways = profile.in_force(device)
            told = f"{len(ways)} shapes, {profile.place(device)}" if ways else "none (foveal tune makes one)"
            tell(f"{'profile':<17}{device}: {told}")
        from foveal.data import create_dataset, list_datasets

        for name in [name for name in list_datasets() if name not in ("npz", "folder", "webdataset")]:
            try:
                create_dataset(name, "test")
                tell(f"{name:<17}found")
            except (OSError, ImportError, ValueError) as error:
                tell(f"{name:<17}not found: {str(error).splitlines()[0]}")
    tell(f"{'disk':<17}{shutil.disk_usage('.').free / 2**30:.1f} GiB free in {Path.cwd()}")
    tell("\n".join(["", "To get what is missing:", *dict.fromkeys(cures)]) if cures else "\nNothing is missing.")


def _processes() -> str:
    """What several processes of a run can exchange gradients by, and how torchrun starts them."""
    import torch
    import torch.distributed as dist

    if not dist.is_available():
        return "this torch cannot train in several processes"
    there = [
        name for name, is_there in (("gloo", dist.is_gloo_available()), ("nccl", dist.is_nccl_available())) if is_there
    ]
    cards = torch.cuda.device_count()
    return f"{', '.join(there)}; torchrun --nproc-per-node {max(cards, 2)} -m foveal train ROW{'' if cards > 1 else ' --device cpu'}"


def _installed(package: str) -> tuple[str, str]:
    """The version of a package and what is wrong with it: one built for another torch fails when it is imported."""
    import importlib.metadata
    import importlib.util

    if importlib.util.find_spec(package) is None:
        return "missing", "is not installed"
    distribution = DISTRIBUTIONS.get(package, package)
    try:
        version = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        version = "not installed, used from a folder"
    problem = _imports(package)
    return version, f"does not load: {problem}" if problem else ""


def _imports(module: str) -> str | None:
    """Why a module cannot be imported, or None."""
    import importlib

    try:
        importlib.import_module(module)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return None
