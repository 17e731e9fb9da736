"""Both halves of the claim behind log-polar bins: python benchmarks/bin_statistics.py --images npz:data/cifar100_slice --run runs/RUN/seed0.

First, pixels have the less to do with the centre the farther they are, so far regions may be coarse: the correlation of each bin with the
centre, over an image set. Second, pixels that are far from the centre and near each other have like effects, so they may share a weight:
how far the weights of a dense first layer, which was free to learn anything, spread within bins, beside random partitions of its taps.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from foveal.analysis import bin_correlation, draw_correlation, draw_weight_spread, save, weight_spread
from foveal.data import create_dataset
from foveal.geometry import log_polar_bins
from foveal.training import load_run
from foveal.training.environment import environment

RADIAL, ANGULAR = 3, 8
MAPS = {  # the setting of appendix A.1, as the paper prints it and as the authors' code has it
    "as printed": {"growth_rate": 2.0, "support": "disk"},
    "authors' code": {"growth_rate": 4.0, "support": "square"},
}


def correlations(name: str, root: str | None, limit: int | None) -> tuple[dict, dict]:
    """Scores of both maps, over all images and within images; what to write and what to draw."""
    images = create_dataset(name, "train", root=root).images[:limit]
    written, drawn = {}, {}
    for title, arguments in MAPS.items():
        bins = log_polar_bins(11, RADIAL, ANGULAR, **arguments)
        written[title] = {"kernel_size": 11, "radial_bins": RADIAL, "angular_bins": ANGULAR, **arguments}
        for sets in ("all", "image"):
            found = bin_correlation(images.split(250), bins, sets=sets)
            table = found.table(RADIAL, ANGULAR)
            means = table.mean(1)
            written[title][sets] = {
                "scores": [[round(score, 6) for score in row] for row in table.tolist()],
                "level_means": [round(mean, 6) for mean in means.tolist()],
                "falls_with_the_level": bool((means.diff() < 0).all()),
                "falls_in_every_direction": bool((table.diff(dim=0) < 0).all()),
                "images": found.images,
                "pairs": found.pairs,
                "flat": found.flat,
            }
            drawn[title, sets] = found
    return written, drawn


def spreads(run: Path, layer: str, partitions: int) -> tuple[dict, list]:
    """Spread of the trained weights and of the weights before training, among both kinds of random partitions."""
    from foveal.training import build

    recipe, trained = load_run(run)
    conv = trained.get_submodule(layer)
    side = conv.weight.shape[-1]
    fresh = build(recipe, num_classes=10, in_channels=3).get_submodule(layer)
    bins = log_polar_bins(side, RADIAL, ANGULAR, **MAPS["as printed"])
    result = json.loads((run / "result.json").read_text())
    written = {
        "network": recipe.model.name,
        "layer": layer,
        "epochs": recipe.train.epochs,
        "quick": recipe.train.epochs < 164 or recipe.is_quick,
        "test_accuracy": result["test_accuracy"],
        "seed": result["seed"],
    }
    drawn = []
    for state, weight in (("trained", conv.weight), ("before training", fresh.weight)):
        written[state] = {}
        for rivals in ("taps", "cells"):
            found = weight_spread(weight, bins, rivals=rivals, partitions=partitions)
            written[state][rivals] = {
                "spread": round(found.spread, 6),
                "percentile": found.percentile,
                "random_mean": round(float(found.random.mean()), 6),
                "random_std": round(float(found.random.std()), 6),
                "random_min": round(float(found.random.min()), 6),
                "partitions": partitions,
                "kernels": found.kernels,
                "taps": found.taps,
                "parts": found.parts,
            }
            if state == "trained":
                drawn.append(found)
    return written, drawn


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--images", default="mnist5k", help="a data set, or NAME:FOLDER such as npz:data/cifar100_slice"
    )
    parser.add_argument("--limit", type=int, help="at most so many images")
    parser.add_argument("--run", type=Path, help="folder of a trained network with a dense first layer")
    parser.add_argument("--layer", default="features.0")
    parser.add_argument("--partitions", type=int, default=1000)
    parser.add_argument("--json", type=Path, default=Path("bin_statistics.json"))
    parser.add_argument("--pictures", type=Path, default=Path("."), help="folder of the pictures")
    chosen = parser.parse_args(arguments)
    name, _, root = chosen.images.partition(":")
    content: dict = {"environment": environment(torch.device("cpu")), "images": chosen.images}
    content["correlation"], drawn = correlations(name, root or None, chosen.limit)
    found = drawn["as printed", "all"]
    title = f"{found.images:,} images, 11 × 11 window, {RADIAL} levels × {ANGULAR} directions, growth rate 2"
    save(draw_correlation(found, RADIAL, ANGULAR, title=title), chosen.pictures / "bin_correlation.png")
    for title, entry in content["correlation"].items():
        for sets in ("all", "image"):
            print(f"{title}, {sets}: correlation by level {entry[sets]['level_means']}")
    if chosen.run is not None:
        content["weights"], panels = spreads(chosen.run, chosen.layer, chosen.partitions)
        about = content["weights"]
        title = (
            f"{chosen.layer} of {about['network']}, dense {panels[0].taps} taps in the field, {panels[0].kernels} kernels, "
            f"after {about['epochs']} epochs"
        )
        save(draw_weight_spread(panels, title=title), chosen.pictures / "weight_spread.png")
        for state in ("trained", "before training"):
            for rivals, row in about[state].items():
                print(f"{state}, rivals {rivals}: spread {row['spread']}, percentile {row['percentile']}")
    chosen.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
