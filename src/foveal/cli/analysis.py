"""Commands that look into networks and layers: cost, draw, explore, field, cam."""

# torch takes a second to import, so everything of foveal is imported inside the commands: --help must be instant.
from __future__ import annotations

import enum
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from foveal.cli.terminal import make_console, say, tell

_RANDOM = " (random weights: nobody trained this network; --weights takes others)"
_WEIGHTS = "Of a model: a file, or torchvision's or timm's name: DEFAULT, IMAGENET1K_V1.  [default: random]"


def cost(
    model: Annotated[str, typer.Argument(help="A model: cifar_resnet20, small_cnn, resnet18.")],
    plan: Annotated[
        str | None, typer.Option(help="What to convert: a YAML file (a plan or a recipe), or YAML itself.")
    ] = None,
    input_size: Annotated[str, typer.Option(help="Channels, height and width of the images.")] = "3,32,32",
    num_classes: Annotated[int, typer.Option(min=1, help="Classes.")] = 10,
) -> None:
    """Measure what a network costs, as it is and converted.

    Counts parameters and multiply-adds, measures time and memory of one image; with a plan it lists what that changes.
    Example: foveal cost cifar_resnet20 --plan '{conv1: {layer: log_polar, kernel_size: 9}}'
    """
    from rich.table import Table

    import foveal
    from foveal import analysis
    from foveal.recipes.load import load_plan
    from foveal.reports.speeds import milliseconds

    size = _size(input_size)
    channels = size[0]
    networks = {model: _network(model, None, None, channels, num_classes)}
    changes: list[Any] = []
    if plan is not None:
        changed = _network(model, None, None, channels, num_classes)
        changes = foveal.convert(changed, load_plan(plan), dry_run=True, input_size=size)
        networks["converted"] = foveal.convert(changed, load_plan(plan))
    costs = [analysis.cost(network, size, latency=False) for network in networks.values()]
    times = analysis.latencies(list(networks.values()), size)
    classes = f"{num_classes} class{'es' if num_classes > 1 else ''}"
    table = Table(f"one image of {_times(size)}, {classes}", *networks, box=None)
    for name, field, style in (
        ("parameters", "params", ",d"),
        ("conv multiply-adds (no pooling additions)", "conv_macs", ",d"),
        ("multiply-adds", "macs", ",d"),
        ("peak memory, MiB", "peak_mib", ",.2f"),
    ):
        table.add_row(name, *(format(getattr(entry, field), style) for entry in costs))
        if field == "conv_macs" and plan is not None:
            counts = [analysis.multiply_adds(network, size) for network in networks.values()]
            table.add_row("  with pooling additions", *(f"{count.with_pooling:,d}" for count in counts))
    table.add_row("latency", *map(milliseconds, times))
    console = make_console()
    console.print(table)
    if changes:
        console.print("\nWhat the plan changes:")
        places = Table("layer", "from", "to", "parameters", "multiply-adds", "starts", box=None)
        for change in changes:
            both = (change.params_before, change.params_after), (change.macs_before, change.macs_after)
            told = (" -> ".join("unknown" if n is None else f"{n:,d}" for n in two) for two in both)
            places.add_row(change.place, change.before, change.after, *told, _STARTS[change.init])
        console.print(places)
    rows = [row for row in analysis.paper_counts(list(networks.values())[-1], size) if row.kind == "log_polar"]
    if rows:
        console.print("\nLog-polar layers, per output position and channel as the paper counts (section 3.4):")
        per_layer = Table("layer", "kernel", "positions", "multiplications", "additions", "look-ups", box=None)
        for row in rows:
            kernel = "x".join(str(side) for side in row.kernel_size)
            numbers = (row.positions, row.multiplications, row.additions, row.lookups)
            per_layer.add_row(row.name, kernel, *(f"{number:,d}" for number in numbers))
        console.print(per_layer)


_STARTS = {"fresh": "fresh", "project": "projected"}


class Drawn(enum.StrEnum):
    bins = "bins"
    kernels = "kernels"
    pooled = "pooled"
    maps = "maps"
    winners = "winners"
    points = "points"


def draw(
    what: Annotated[
        Drawn,
        typer.Argument(
            help="bins of a layer, its kernels, an image pooled by it; of an image the maps of layers, the scale that "
            "winners have where, the points that are read."
        ),
    ],
    model: Annotated[
        str,
        typer.Argument(
            help="A model, or the folder of a run: runs/quickstart/log_polar/seed0. For points a table's, too."
        ),
    ],
    plan: Annotated[
        str | None, typer.Option(help="What to convert: a YAML file (a plan or a recipe), or YAML itself.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help=_WEIGHTS)] = None,
    layer: Annotated[
        list[str] | None, typer.Option(help="Its name; for maps again for more.  [default: the first that fits]")
    ] = None,
    image: Annotated[
        Path | None, typer.Option(help="An image: bins are laid over it; all but bins and kernels need one.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Kernels before the mean's 1/N, so that far bins are not pale.")
    ] = False,
    at: Annotated[
        str | None, typer.Option(metavar="ROW,COLUMN", help="The pixel looked at.  [default: the middle]")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File, .png or .svg.  [default: bins.png and so on]")] = None,
) -> None:
    """Draw a layer, or what networks see.

    Of a layer: its bins, its learned kernels, its pooled map. The caption says what the layer's arguments are.
    Example: foveal draw bins small_cnn --plan '{conv1: {layer: log_polar, kernel_size: 11, rotation: 0.5}}'
    Example: foveal draw points runs/quickstart --image cat.jpg --at 120,90
    """
    from foveal import analysis
    from foveal.data.images import decode
    from foveal.evaluation.drawing import draw_pooled_image

    if raw and what is not Drawn.kernels:
        raise ValueError(f"--raw is for kernels; {what.value} has no weights in it")
    if what in (Drawn.maps, Drawn.winners, Drawn.points):
        _draw_what_networks_do(what, model, plan, weights, layer or [], image, _pixel(at), out)
        return
    if layer is not None and len(layer) > 1:
        raise ValueError(f"--layer names one layer for {what.value}; got {', '.join(layer)}")
    network = _network(model, plan, weights, 3)
    name, module = _drawable(network, layer[0] if layer else None, what)
    pixels = None if image is None else decode(image)
    position = _pixel(at)
    if position is not None and pixels is None:
        raise ValueError("--at is a pixel of an image: give --image, too")
    if what is Drawn.kernels:
        figure = analysis.draw_kernels(module, raw=raw)
    elif what is Drawn.bins and pixels is None:
        figure = analysis.draw_bins(module)
    elif pixels is None:
        raise ValueError("pooled needs --image, the image to pool")
    elif what is Drawn.bins:
        figure = analysis.draw_bins_on_image(module, pixels, position)
    else:
        figure = draw_pooled_image(module, pixels, position)
    out = out or Path(f"{what.value}.png")
    analysis.save(figure, out)
    caption = figure.get_suptitle() or figure.axes[0].get_title()
    untrained = _RANDOM if what is Drawn.kernels and weights is None and not _is_run(model) else ""
    tell(f"{out}: {name or model}, {caption}".replace("\n", " · ") + untrained)


def _pixel(at: str | None) -> tuple[int, int] | None:
    if at is None:
        return None
    if not re.fullmatch(r"\d{1,6},\d{1,6}", at):
        raise ValueError(f"--at must be row,column such as 12,20, got {at}")
    return int(at.split(",")[0]), int(at.split(",")[1])


def _draw_what_networks_do(
    what: Drawn,
    model: str,
    plan: str | None,
    weights: str | None,
    layers: list[str],
    image: Path | None,
    at: tuple[int, int] | None,
    out: Path | None,
) -> None:
    """Feature maps, winning scales or sampling points on an image."""
    from foveal import analysis
    from foveal.evaluation import drawing
    from foveal.evaluation.networks import open_networks

    if image is None:
        raise ValueError(f"{what.value} needs --image, an image file, or a number in a run's test split")
    if at is not None and what is not Drawn.points:
        raise ValueError(f"--at is the pixel whose points are drawn; {what.value} shows all of the image")
    networks = open_networks(model, plan, weights)
    if what is Drawn.points:
        figure, text = drawing.draw_where(networks, str(image), layers, at)
    else:
        make = drawing.draw_maps if what is Drawn.maps else drawing.draw_winners
        figure, text = make(networks, str(image), layers)
    out = out or Path(f"{what.value}.png")
    analysis.save(figure, out)
    tell(f"{out}: {text}{_RANDOM if networks.random else ''}")


def explore(
    out: Annotated[Path, typer.Option(help="File, .html.")] = Path("explorer.html"),
) -> None:
    """Write a page to play with kernels in the browser.

    Bins and taps on an image of yours, what they cost beside dense kernels, and the line of Python or of a plan for what is seen. One file,
    which needs no server and no network.
    Example: foveal explore --out explorer.html
    """
    from foveal.analysis import explorer
    from foveal.data.writing import write_file

    write_file(out, explorer().encode())
    tell(f"open it in a browser: {out}")


def field(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="Models, or folders of runs: runs/quickstart/conv/seed0."),
    ],
    plan: Annotated[
        str | None, typer.Option(help="What to convert: a YAML file (a plan or a recipe), or YAML itself.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help=_WEIGHTS)] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(help="Look at its output; again for more.  [default: the last convolution]"),
    ] = None,
    input_size: Annotated[str, typer.Option(help="Channels, height and width of the images.")] = "3,96,96",
    activations: Annotated[
        str, typer.Option(help="identity: what layers can reach; as_is: what they do.")
    ] = "identity",
    out: Annotated[Path, typer.Option(help="File for the picture, .png or .svg.")] = Path("field.png"),
) -> None:
    """Measure the effective receptive fields of networks.

    Convolutional ones and transformers: sizes, stride and offset in pixels of the input, from gradients; with --plan as they are and converted.
    Example: foveal field simple_vgg --layer features.8 --layer features.13
    """
    from rich.table import Column, Table

    from foveal import analysis

    size = _size(input_size)
    networks, looked_at, random = {}, {}, []
    for model in models:
        networks[model] = _network(model, None, weights, size[0])
        if weights is None and not _is_run(model):
            random.append(model)
        maps = [name for name in analysis.map_layers(networks[model], size) if _weighs(networks[model], name)]
        if not layer and not maps:
            raise ValueError(
                f"{model} has no map of more than one position at --input-size {input_size}; take a larger one, or its channels"
            )
        looked_at[model] = layer or maps[-1:]
        if plan is not None:
            converted = "converted" if len(models) == 1 else f"{model}, converted"
            networks[converted] = _network(model, plan, weights, size[0])
            looked_at[converted] = looked_at[model]
    names = (Column(name, overflow="fold") for name in ("network", "layer"))
    table = Table(*names, "size", "pixels", "95 % within", "width", "stride", "offset", box=None)
    fields, labels, cut = [], [], []
    for name, network in networks.items():
        for at in looked_at[name]:
            found = analysis.effective_receptive_field(network, size, layer=at, activations=activations)
            stride, offset = (
                ", ".join("-" if v is None else f"{v:g}" for v in two) for two in (found.stride, found.offset)
            )
            sizes = f"{found.size[0]} x {found.size[1]}", f"{found.pixels:,}", f"{found.side} x {found.side}"
            table.add_row(name, at, *sizes, f"{found.width:.2f}", stride, offset)
            fields.append(found)
            labels.append(f"{name}, {at}")
            cut += [labels[-1]] if found.cut else []
    analysis.save(analysis.draw_receptive_field(fields, labels=labels), out)
    make_console().print(table)
    untrained = f"; random weights: {', '.join(random)}" if random else ""
    tell(f"images: {_times(size)}; activations: {activations}{untrained}")
    if cut:
        tell(f"cut by the border of the image: {'; '.join(cut)} (a larger --input-size shows all)")
    tell(f"picture: {out}")


class Rule(enum.StrEnum):
    region = "region"
    rectangle = "rectangle"


def cam(
    model: Annotated[str, typer.Argument(help="Folder of a run, of a table of runs, or a model.")],
    images: Annotated[
        list[str] | None,
        typer.Argument(
            help="Image files, folders of them, or numbers in a run's test split; none: measure on --boxes."
        ),
    ] = None,
    plan: Annotated[str | None, typer.Option(help="What to convert in a model: a YAML file, or YAML itself.")] = None,
    weights: Annotated[str | None, typer.Option(help=_WEIGHTS)] = None,
    label: Annotated[
        int | None, typer.Option("--class", min=0, help="The class to look for.  [default: the first guess]")
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="Grad-CAM at this layer.  [default: the class activation map]")
    ] = None,
    threshold: Annotated[float, typer.Option(help="Of the box, a share of the map's range.")] = 0.3,
    rule: Annotated[
        Rule, typer.Option(help="Box of the largest region, or largest rectangle, above it.")
    ] = Rule.region,
    boxes: Annotated[Path | None, typer.Option(help="Folder of a set with true boxes.")] = None,
    out: Annotated[Path, typer.Option(help="File for the picture, .png or .svg.")] = Path("cam.png"),
    to_json: Annotated[
        Path | None, typer.Option("--json", help="File for the localisation errors of a table's runs.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
) -> None:
    """Draw or measure where networks see a class.

    Rows of a table stand side by side. Without images every run of a table is measured on --boxes, with a threshold chosen
    on the other half of the images, into --json.
    Example: foveal cam runs/acn/table7 dog.jpg
    """
    from foveal import analysis
    from foveal.data import read_boxed
    from foveal.evaluation.activation import draw_networks
    from foveal.evaluation.localise import error_table, measure_table
    from foveal.evaluation.networks import open_networks
    from foveal.training.environment import pick_device

    if images:
        if to_json is not None:
            raise ValueError("--json is for measuring: leave the images out")
        networks = open_networks(model, plan, weights)
        pictures = [file for name in images for file in _files(name)]
        boxed = None if boxes is None else read_boxed(boxes)
        settings: dict[str, Any] = {"label": label, "layer": layer, "threshold": threshold, "rule": rule.value}
        title = "random weights: nobody trained this network" if networks.random else None
        try:
            figure, found = draw_networks(networks, pictures, boxed=boxed, title=title, **settings)
        except ValueError as error:
            if layer is not None or "use grad_cam" not in str(error):
                raise
            raise ValueError(
                str(error).partition("use grad_cam")[0] + "name a layer for Grad-CAM: --layer NAME"
            ) from error
        analysis.save(figure, out)
        for one in found:
            left, top, right, bottom = one["box"]
            place = f"{left:g},{top:g} to {right:g},{bottom:g}"
            tell(f"{one['network']}  {one['file']}: {one['class']} ({one['probability']:.1%}), box {place}")
        tell(f"picture: {out}{_RANDOM if networks.random else ''}")
        return
    if boxes is None or to_json is None:
        raise ValueError("name images to draw, or --boxes and --json to measure the runs of a table")

    def show(run: str, measured: dict[str, Any]) -> None:
        say(f"{run}: classification error {measured['classification_top1']:.1%}, {_shares(measured)}")

    content = measure_table(model, boxes, to_json, device=pick_device(device), progress=show)
    make_console().print(error_table(content))
    tell(f"errors: {to_json}")


def _shares(measured: dict[str, Any]) -> str:
    return ", ".join(f"localisation error by {rule.value} {measured[rule.value]['top1']:.1%}" for rule in Rule)


def _size(text: str) -> list[int]:
    if not re.fullmatch(r"\d{1,6},\d{1,6},\d{1,6}", text):
        raise ValueError(f"--input-size must be channels,height,width such as 3,32,32, got {text}")
    return [int(part) for part in text.split(",")]


def _weighs(network: Any, name: str) -> bool:
    """Whether a layer weighs a map, a convolution or that of a transformer: what a pooling behind it sees is another field."""
    layer = network.get_submodule(name)
    return hasattr(layer, "in_features") or all(
        hasattr(layer, of_all) for of_all in ("in_channels", "out_channels", "kernel_size")
    )


def _times(size: list[int]) -> str:
    return " x ".join(map(str, size))


def _is_run(name: str) -> bool:
    return Path(name).is_dir()


def _files(name: str) -> list[str]:
    """The images of a folder, or the file that a name is."""
    from foveal.data.images import image_files

    if not Path(name).is_dir():
        return [name]
    files = [str(file) for file in image_files(Path(name))]
    if not files:
        raise ValueError(f"{name} holds no image file")
    return files


def _network(name: str, plan: str | None, weights: str | None, channels: int, num_classes: int = 10) -> Any:
    """A trained network of a run, or one by its name; converted where there is a plan."""
    import foveal
    from foveal.evaluation.networks import network_by_name
    from foveal.named import is_dotted, search_in
    from foveal.recipes.load import load_plan
    from foveal.training import load_run

    if is_dotted(name):
        search_in(".")
    if not _is_run(name):
        return network_by_name(name, plan, weights, in_channels=channels, num_classes=num_classes)[0]
    if weights is not None:
        raise ValueError(f"--weights is for a network by name; {name} is the folder of a run, which has its own")
    network = load_run(name)[1]
    return network if plan is None else foveal.convert(network, load_plan(plan))


def _drawable(network: Any, name: str | None, what: Drawn) -> tuple[str, Any]:
    """The layer of that name, or the first log-polar one; kernels may be those of any convolution."""
    modules = dict(network.named_modules())
    if name is not None and name not in modules:
        from difflib import get_close_matches

        close = ", ".join(get_close_matches(name, modules, n=3, cutoff=0.3)) or "none"
        raise ValueError(f"--layer must name a layer of the network; got {name}. Near it: {close}")
    chosen = {name: modules[name]} if name is not None else modules
    fitting = [key for key, module in chosen.items() if getattr(getattr(module, "bins", None), "ndim", 0) == 2]
    if what is Drawn.kernels and not fitting:
        fitting = [key for key, module in chosen.items() if getattr(getattr(module, "weight", None), "ndim", 0) == 4]
    if what is Drawn.pooled:
        fitting = [key for key in fitting if getattr(chosen[key], "map", None)]
    if not fitting:
        which = name if name is not None else "the network"
        need = "a convolution" if what is Drawn.kernels else "a log-polar layer"
        raise ValueError(f"{which} is not, and has not, {need}; --layer picks another, --plan makes one")
    return fitting[0], chosen[fitting[0]]
