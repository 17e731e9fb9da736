"""Make docs/results/at_scale.json and the tables of docs/at_scale.md: what runs and tables would cost on 1 to 64 cards.

    python docs/at_scale.py

Parts that are counted: multiply-adds and parameters of every row's network (on no device: torch's meta tensors), steps and images
of its recipe. Parts that were measured: images a second that a core decodes. All else is assumed, and stated in ASSUMED.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import torch

from foveal.analysis import cost
from foveal.recipes.load import find_recipes, load_row, packaged_recipes
from foveal.recipes.schema import Recipe
from foveal.training.build import build_network

HERE = Path(__file__).parent
PAGE, RESULTS = HERE / "at_scale.md", HERE / "results" / "at_scale.json"
ASSUMED = {
    "card": "H100 SXM",
    "sustained_flops": 40e12,  # of training in TF32; 8 % of the card's dense peak: small images and many small kernels
    "seconds_a_step_at_least": 0.008,  # the host starts some hundred kernels
    "bytes_a_second_in_a_machine": 150e9,
    "bytes_a_second_between_machines": 25e9,
    "cards_in_a_machine": 8,
    "cores_a_card": 12,
}
MEASURED = {"decoded_images_a_second_and_core": 248}  # folder, 320 photographs of ImageNet, 224 pixels, one run
# training images, classes, channels, height and width
SETS = {
    "cifar10": (50_000, 10, 3, 32),
    "cifar100": (50_000, 100, 3, 32),
    "stl10": (5_000, 10, 3, 96),
    "svhn": (604_388, 10, 3, 32),
    "mnist": (60_000, 10, 1, 28),
    "folder": (1_281_167, 1000, 3, 224),
    "voc_aug": (10_582, 21, 3, 513),
    "voc": (1_464, 21, 3, 513),
    "drive": (20, 1, 3, 448),
}
CARDS = (1, 8, 64)


def counted(row: Recipe, known: dict[str, Any]) -> dict[str, Any] | None:
    """What a row's network takes for an image, or None where its set is none of those above."""
    if row.data.name not in SETS:
        return None
    images, classes, channels, side = SETS[row.data.name]
    height, width = row.data.size or (side, side)
    key = json.dumps([row.model.model_dump(), row.convert, classes, height, width], sort_keys=True)
    if key not in known:
        said = row.model.model_copy(update={name: None for name in ("backbone_weights",) if hasattr(row.model, name)})
        with torch.device("meta"):
            network = build_network(said, row.convert, num_classes=classes, in_channels=channels, fetch=False)
        spent = cost(network.eval(), (channels, height, width), latency=False)
        known[key] = {"params": spent.params, "macs": spent.macs}
    return {**known[key], "images": images, "decoded": row.data.name == "folder"}


def seconds_a_step(row: Recipe, one: dict[str, Any], cards: int) -> float:
    """An estimate: products, or the host, or decoding, whichever is slowest, and then the exchange of gradients."""
    size = row.train.batch_size
    products = 6 * one["macs"] * math.ceil(size / cards) / ASSUMED["sustained_flops"]
    decoding = size / cards / (MEASURED["decoded_images_a_second_and_core"] * ASSUMED["cores_a_card"])
    wire = "between_machines" if cards > ASSUMED["cards_in_a_machine"] else "in_a_machine"
    exchange = 2 * (cards - 1) / cards * 4 * one["params"] / ASSUMED[f"bytes_a_second_{wire}"]
    return max(products, ASSUMED["seconds_a_step_at_least"], decoding if one["decoded"] else 0.0) + exchange


def table_of(folder: Path, known: dict[str, Any]) -> dict[str, Any]:
    """The estimate for all runs of a table."""
    name = str(folder.relative_to(packaged_recipes()))
    total: dict[str, Any] = {"table": name, "runs": 0, "not_counted": 0, "hours": dict.fromkeys(CARDS, 0.0), "rows": []}
    for path in find_recipes(name):
        row = load_row(path)
        if not isinstance(row, Recipe):
            continue
        total["runs"] += row.seeds
        try:
            one = counted(row, known)
        except (ValueError, RuntimeError, NotImplementedError, TypeError, ImportError, FileNotFoundError):
            one = None
        if one is None:
            total["not_counted"] += row.seeds
            continue
        steps = row.train.epochs * math.ceil(one["images"] / row.train.batch_size)
        hours = {cards: steps * seconds_a_step(row, one, cards) / 3600 for cards in CARDS}
        about = {"steps": steps, "batch_size": row.train.batch_size, "seeds": row.seeds}
        total["rows"].append({"row": row.name, **one, **about, "gradient_bytes": 4 * one["params"], "hours": hours})
        for cards in CARDS:
            total["hours"][cards] += row.seeds * hours[cards]
    return total


def lines(tables: list[dict[str, Any]]) -> str:
    """Both tables in Markdown."""
    text = ["| table | runs | hours, 1 card | hours, 8 cards, a run on each |", "|---|---|---|---|"]
    for one in tables:
        if one["not_counted"] == one["runs"]:
            text.append(f"| `{one['table']}` | {one['runs']} | not counted | |")
            continue
        left = f" ({one['not_counted']} not counted)" if one["not_counted"] else ""
        alone = one["hours"][1]
        longest = max(row["hours"][1] for row in one["rows"])
        text.append(f"| `{one['table']}` | {one['runs']}{left} | {alone:,.1f} | {max(longest, alone / 8):,.1f} |")
    text += [
        "",
        "| run | multiply-adds an image | gradients | steps | hours on 1 card | 8 | 64 |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in tables:
        if one["rows"]:
            row = max(one["rows"], key=lambda row: row["hours"][1])
            hours = " | ".join(f"{row['hours'][cards]:,.2f}" for cards in CARDS)
            text.append(
                f"| `{one['table']}/{row['row']}` | {row['macs'] / 1e9:,.2f} G | {row['gradient_bytes'] / 1e6:,.1f} MB | "
                f"{row['steps']:,} | {hours} |"
            )
    return "\n".join(text)


def main() -> None:
    """Count, write, and put the tables into the page."""
    known: dict[str, Any] = {}
    folders = sorted(
        {path.parent for paper in ("lpsc", "acn") for path in (packaged_recipes() / paper).rglob("*.yaml")}
    )
    tables = []
    for folder in folders:
        tables.append(table_of(folder, known))
        print(tables[-1]["table"], tables[-1]["hours"], flush=True)
    RESULTS.write_text(json.dumps({"assumed": ASSUMED, "measured": MEASURED, "tables": tables}, indent=1) + "\n")
    page = PAGE.read_text()
    new = re.sub(
        r"(<!-- tables -->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}{lines(tables)}\n{found[2]}",
        page,
        flags=re.S,
    )
    PAGE.write_text(new)


if __name__ == "__main__":
    main()
