"""Commands that hand a network on: export."""

# torch takes a second to import, so everything of foveal is imported inside the commands: --help must be instant.
from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from foveal.cli.terminal import image_size, tell


def export(
    network: Annotated[str, typer.Argument(help="The folder of a run, or a model: resnet18.")],
    to: Annotated[
        Literal["onnx", "pt2", "aoti", "openvino"],
        typer.Option(help="onnx; pt2: torch.export; aoti: compiled for this CPU; openvino."),
    ] = "onnx",
    plan: Annotated[
        str | None, typer.Option(help="Of a model, what to convert: a YAML file (a plan or a recipe), or YAML itself.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Of a model: a file, or torchvision's or timm's name.  [default: random]")
    ] = None,
    input_size: Annotated[
        str | None, typer.Option(metavar="C,H,W", help="Of one image.  [default: the run's, or 3,224,224]")
    ] = None,
    dynamic: Annotated[
        str, typer.Option(help="What may change from call to call: batch, size, both with a comma, or none.")
    ] = "batch",
    half: Annotated[bool, typer.Option("--half", help="float16.")] = False,
    form: Annotated[
        Literal["auto", "dense", "sums"],
        typer.Option(help="Of wide log-polar layers: one convolution, or sums over bins."),
    ] = "auto",
    deform: Annotated[
        Literal["auto", "DeformConv", "GridSample"],
        typer.Option(help="ONNX's operator for moving points; auto: DeformConv where the runtime has it."),
    ] = "auto",
    opset: Annotated[int, typer.Option(help="Of ONNX.")] = 20,
    image: Annotated[list[Path] | None, typer.Option(help="An image to compare on, too; again for more.")] = None,
    out: Annotated[Path | None, typer.Option(help="File.  [default: RUN/model.onnx, MODEL.onnx]")] = None,
) -> None:
    """Write a network for another runtime, checked there.

    The file of a run knows its recipe and classes: foveal predict FILE IMAGE.
    Example: foveal export runs/quickstart/log_polar/seed0 --to onnx --dynamic batch,size
    """
    import torch

    import foveal
    from foveal.data import decode
    from foveal.deploy.export import SUFFIX
    from foveal.evaluation.networks import given_to, open_networks
    from foveal.training.trained import load

    run = Path(network).is_dir()
    said: dict[str, Any] = {"foveal": foveal.__version__}
    images: list[torch.Tensor] = []
    if run:
        for option, given in (("--plan", plan), ("--weights", weights)):
            if given is not None:
                raise ValueError(
                    f"{option} is for a network by name; {network} is the folder of a run, which is as it was trained"
                )
        trained = load(network)
        model, channels, size = trained.network, trained.in_channels, trained.size
        said |= {
            "recipe": trained.recipe.model_dump(mode="json"),
            "classes": trained.classes,
            "in_channels": channels,
            "size": size,
        }
        images = [trained.preprocess(file) for file in image or ()]
        shape = (channels, *(size or tuple(images[0].shape[2:] if images else (224, 224))))
    else:
        opened = open_networks(network, plan, weights)
        model = opened.by_name[network]
        prepared = opened.prepared
        said |= {"model": network, "plan": plan, "mean": prepared.mean, "std": prepared.std, "classes": opened.classes}
        images = [given_to(prepared, decode(file), model) for file in image or ()]
        shape = (next(p for p in model.parameters() if p.ndim > 2).shape[1], *(prepared.size or (224, 224)))
        if weights is None:
            tell(f"{network} has random weights: nobody trained it; --weights takes others")
    if input_size is not None:
        shape = image_size(input_size, "3,224,224")
    free = () if dynamic == "none" else tuple(part.strip() for part in dynamic.split(","))
    path = out or (Path(network) / f"model{SUFFIX[to]}" if run else Path(f"{network.replace(':', '.')}{SUFFIX[to]}"))
    generator = torch.Generator().manual_seed(0)
    example = torch.randn(1, *shape, generator=generator)
    done = foveal.export(
        model,
        example,
        path,
        to=to,
        dynamic=free,
        opset=opset,
        half=half,
        form=form,
        deform=deform,
        metadata=said,
        images=images,
    )
    for note in done.notes:
        tell(f"note: {note}")
    for check in done.checks:
        tell(
            f"{' x '.join(map(str, check.shape)):>20}  {check.what}: differs by {check.difference:.1e} of the largest output"
        )
    tell(f"{to}, {path.stat().st_size / 2**20:.2f} MiB, checked in its runtime: {path}")
