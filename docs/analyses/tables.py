"""Make the tables of the pages beside this file, and of those named in OTHERS: python docs/analyses/tables.py."""

import importlib.util
import json
import re
import statistics
from pathlib import Path

from foveal.evaluation.localise import percent
from foveal.recipes.load import find_recipes, load_row
from foveal.reports.table import judged

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
OTHERS = ("classification", "detection", "segmentation")
PAGES = sorted([*HERE.glob("*.md"), *(HERE.parent / f"{name}.md" for name in OTHERS)])
ABLATIONS = ("reduce", "radius", "radial_bins", "angular_bins", "growth")
SEEDS = (
    "lpsc_table1a_10_epochs_changed",
    "lpsc_table1b_quick",
    "acn_table4_mnist28_quick",
    "acn_table4_mnist14_quick",
    "acn_control_variates_quick",
    "acn_table9_quick",
    "acn_table10_quick",
)
TRAINED = ("lpsc_table5_drive_quick", "lpsc_table4_voc_quick", "lpsc_table4_shapes_quick", "acn_figure8_cifar10_quick")
LOCALISED = ("acn_table7_tiny_imagenet_quick", "acn_table7_offset_rate_quick")
DETECTED = ("acn_table8_shapes_quick", "acn_table8_shapes_align_quick", "acn_table8_coco_quick")

JUDGED = {
    "lpsc_table1a_10_epochs_changed": "lpsc/table1a",
    "lpsc_table1b_quick": "lpsc/table1b",
    "lpsc_table4_shapes_quick": "lpsc/table4",
    "lpsc_table5_drive_quick": "lpsc/table5",
    "acn_table4_mnist28_quick": "acn/table4",
    "acn_table4_mnist14_quick": "acn/table4",
    "acn_table9_quick": "acn/table9",
    "acn_table10_quick": "acn/table10",
}
"""Where the claims of results are stated."""


def read(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


def machine(environment):
    return f"{environment['cpu']}, {environment['threads']} thread(s), PyTorch {environment['torch']}"


def correlation():
    """Mean correlation of each level, with the range over its directions."""
    found = read("bin_statistics_quick")
    lines = ["| map | sets | level 1 | level 2 | level 3 | falls in every direction |", "|---|---|---|---|---|---|"]
    names = {"all": "all images together", "image": "within each image"}
    for title, entry in found["correlation"].items():
        for sets, name in names.items():
            rows = zip(entry[sets]["level_means"], entry[sets]["scores"], strict=True)
            cells = [f"{mean:.3f} ({min(row):.3f} to {max(row):.3f})" for mean, row in rows]
            falls = "yes" if entry[sets]["falls_in_every_direction"] else "no"
            lines.append(f"| {title} | {name} | {' | '.join(cells)} | {falls} |")
    return "\n".join(lines)


def spread():
    weights = read("bin_statistics_quick")["weights"]
    lines = [
        f"{weights['network']}, `{weights['layer']}`, {weights['epochs']} epochs (quick), test accuracy "
        f"{100 * weights['test_accuracy']:.1f} %, seed {weights['seed']}:",
        "",
        "| weights | random partitions | spread in log-polar bins | in random parts, mean ± std | partitions with less spread |",
        "|---|---|---|---|---|",
    ]
    names = {"taps": "taps dealt out, equal sizes", "cells": "parts that hang together"}
    for state in ("trained", "before training"):
        for rivals, row in weights[state].items():
            lines.append(
                f"| {state} | {row['partitions']:,}, {names[rivals]} | {row['spread']:.3f} "
                f"| {row['random_mean']:.3f} ± {row['random_std']:.3f} | {row['percentile']:.1f} % |"
            )
    return "\n".join(lines)


def growth():
    found = read("field_growth")
    lines = [
        "| stack | exponent of the kernel size | exponent of the depth |",
        "|---|---|---|",
        "| theory, k √n | 1 | 0.5 |",
    ]
    for name, row in found["stacks"].items():
        cells = [f"{row[key]['mean']:.3f} ± {row[key]['std']:.3f}" for key in ("kernel_exponent", "depth_exponent")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"{len(found['seeds'])} seeds, {machine(found['environment'])}."])


def robustness():
    path = HERE.parent.parent / "benchmarks" / "robustness.py"
    spec = importlib.util.spec_from_file_location("robustness", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = read("robustness")
    setting = found["setting"]
    about = (
        f"{setting['train_images']:,} training and {setting['test_images']:,} test digits, {setting['epochs']} epochs, "
        f"{len(setting['seeds'])} seeds (mean ± standard deviation), {machine(found['environment'])}."
    )
    return f"{module.table(found)}\n\n{about}"


def ablation(name):
    """The rows of an ablation that was run, from the file that `foveal report --json` wrote."""
    path = RESULTS / f"ablation_{name}_quick.json"
    if not path.exists():
        return "not run yet"
    lines = ["| row (quick) | test accuracy (95 % interval) | parameters | conv multiply-adds |", "|---|---|---|---|"]
    for row in json.loads(path.read_text())["rows"]:
        accuracy = row["test_accuracy"]
        low, high = (f"{100 * end:.1f}" for end in accuracy["interval"])
        lines.append(
            f"| {row['title']} | {100 * accuracy['mean']:.1f} % ({low} to {high}) | {row['params']:,} "
            f"| {row['conv_macs'] / 1e6:.2f} M |"
        )
    return "\n".join(lines)


def over_seeds(name):
    """Rows that were trained with several seeds, each beside its baseline seed by seed."""
    found = read(name)
    rows = {row["name"]: row for row in found["rows"]}
    accuracies = {name: {run["seed"]: run["accuracy"] for run in row["runs"]} for name, row in rows.items()}
    lines = [
        "| row | test accuracy, % | min to max | against the baseline, points | ahead in | parameters | conv multiply-adds |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        accuracy, against, ahead = row["test_accuracy"], "", ""
        if row["against"]:
            theirs = accuracies[row["against"]["baseline"]]
            points = [100 * (mine - theirs[seed]) for seed, mine in accuracies[row["name"]].items()]
            against = f"{statistics.fmean(points):+.2f} ± {statistics.stdev(points):.2f}"
            ahead = f"{sum(point > 0 for point in points)} of {len(points)} seeds"
        title = row["title"] + (" (quick)" if row["quick"] else "")
        lines.append(
            f"| {title} | {100 * accuracy['mean']:.2f} ± {100 * accuracy['std']:.2f} "
            f"| {100 * accuracy['min']:.2f} to {100 * accuracy['max']:.2f} | {against} | {ahead} "
            f"| {row['params']:,} | {row['conv_macs'] / 1e6:.1f} M |"
        )
    one = found["rows"][0]
    about = f"n = {len(found['seeds'])} seeds; {one['runs'][0]['epochs']} epochs; {machine(found['hardware'][0])}."
    return "\n".join([*lines, "", about, f"Not the published experiment: {'; '.join(one['differs'])}."])


def verdicts():
    """What the papers state of the rows that were trained, as the recipes hold it, and what was seen."""
    lines = ["| results | row | the paper has it | here | verdict |", "|---|---|---|---|---|"]
    for name, folder in JUDGED.items():
        accuracy = {"name": "accuracy", "title": "accuracy", "unit": "%", "higher_is_better": True}
        rows = [{"headline": "accuracy", "metrics": [accuracy], **row} for row in read(name)["rows"]]
        recipes = {row.name: row for row in map(load_row, find_recipes(folder))}
        for row in rows:
            recipe = recipes[re.sub("-(quick|changed)$", "", row["name"])]
            claims = [claim.model_dump() for claim in getattr(recipe, "claims", ())]
            for found in judged(row | {"claims": claims}, rows):
                plain, claim = (re.sub(r"-(quick|changed)\b", "", text) for text in (row["name"], found["claim"]))
                cells = (f"[{folder}](results/{name}.json)", plain, claim, found["seen"], f"**{found['verdict']}**")
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def localisation(name):
    """Errors of the rows of the ACN paper's Table VII, mean and deviation over seeds, from `foveal cam --json`."""
    found = read(name)
    shares = ("classification_top1", "region.top1", "region.top5", "region.known_class")
    shares = (*shares, "rectangle.top1", "rectangle.known_class")
    lines = [
        "| row (quick), error in % | classification | localisation top-1, region | top-5, region | known class, region "
        "| top-1, rectangle | known class, rectangle |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        cells = [percent(row["localisation"][share]) for share in shares if row["localisation"]]
        lines.append(f"| {row['title']} | {' | '.join(cells)} |")
    runs = [run for row in found["rows"] for run in row["runs"] if "localisation" in run]
    measured = runs[0]["localisation"]
    about = (
        f"{measured['n']} images, {measured['left_out']} left out; seeds {', '.join(map(str, found['seeds']))}, mean ± "
        f"standard deviation. Whole image: {100 * measured['whole_image']:.1f}. {machine(runs[0]['environment'])}."
    )
    return "\n".join([*lines, "", about])


def shown(found):
    """93.41, or 93.41 ± 0.12 over several seeds."""
    if found["mean"] is None:
        return "–"
    return f"{100 * found['mean']:.2f}" + (f" ± {100 * found['std']:.2f}" if found["std"] is not None else "")


def trained(name):
    """A line for each row that was trained; its metrics on test images, and what it came to while training."""
    rows = [row for row in read(name)["rows"] if not row["quoted"]]
    metrics = rows[0]["metrics"]
    both = [metric for metric in metrics if f"train_{metric['name']}" in rows[0]["runs"][0]]
    heads = ["row", "seeds", *(f"{metric['title']}, %" for metric in metrics)]
    heads += [f"training {metric['title']}, %" for metric in both[:1]] + ["parameters", "minutes a run"]
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
    for row in rows:
        runs = [run for run in row["runs"] if run["state"] == "finished"]
        cells = [
            row["title"] + (" (quick)" if row["quick"] else ""),
            str(len(runs)),
            *(shown(row[f"test_{metric['name']}"]) for metric in metrics),
        ]
        for metric in both[:1]:
            values = [100 * run[f"train_{metric['name']}"] for run in runs]
            cells.append(", ".join(f"{value:.1f}" for value in values))
        cells += [f"{row['params']:,}", ", ".join(f"{run['seconds'] / 60:.1f}" for run in runs)]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def detection(name):
    """A line for each row that was trained: average precisions on test images, and what training ended with."""
    content = read(name)
    scores = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")
    lines = [
        "| row (quick) | mAP, % | @.5 | @.75 | small | medium | large | training loss | parameters | multiply-adds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in content["rows"]:
        if not row["runs"]:
            continue
        cells = [shown(row[f"test_{key}"]) for key in scores]
        loss = statistics.fmean(run["train_loss"] for run in row["runs"])
        lines.append(
            f"| {row['title']} | {' | '.join(cells)} | {loss:.2f} | {row['params']:,} | {row['macs'] / 1e9:.2f} G |"
        )
    runs = [run for row in content["rows"] for run in row["runs"]]
    seeds = sorted({run["seed"] for run in runs})
    minutes = sum(run["seconds"] for run in runs) / 60
    several = f"seeds {', '.join(map(str, seeds))}, mean ± standard deviation" if len(seeds) > 1 else f"seed {seeds[0]}"
    about = f"{machine(runs[0]['environment'])}, {several}; {minutes:,.0f} minutes for all."
    return "\n".join([*lines, "", about])


TABLES = {
    "verdicts": verdicts,
    **{name: lambda name=name: localisation(name) for name in LOCALISED},
    "correlation": correlation,
    "spread": spread,
    "growth": growth,
    "robustness": robustness,
    **{f"ablation_{name}": lambda name=name: ablation(name) for name in ABLATIONS},
    **{name: lambda name=name: over_seeds(name) for name in SEEDS},
    **{name: lambda name=name: trained(name) for name in TRAINED},
    **{name: lambda name=name: detection(name) for name in DETECTED},
}


def written(page):
    """The text of a page with its tables made anew."""
    return re.sub(
        r"(<!-- (\w+) -->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[3]}",
        page.read_text(),
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(written(page))
