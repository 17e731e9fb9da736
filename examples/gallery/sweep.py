"""A sweep: the width of the window of one layer, dense and log-polar, three seeds each."""

import statistics
import tempfile

from matplotlib.figure import Figure

from foveal.training import Recipe, fit

WIDTHS = (3, 5, 9)


def recipe(kind, width, quick):
    """One point of the sweep, as one would write it in a recipe."""
    layer = {"layer": "conv", "kernel_size": width}
    if kind == "log-polar" and width > 3:
        layer = {"layer": "log_polar", "kernel_size": width, "radial_bins": 2, "angular_bins": 6, "growth_rate": 3.0}
    return Recipe.model_validate(
        {
            "name": f"{kind}-{width}",
            "model": {"name": "small_cnn"},
            "convert": {"conv2": layer},
            "data": {"name": "mnist5k", "limit": 40 if quick else 800},
            "train": {"epochs": 1 if quick else 2, "batch_size": 20, "lr": 0.05, "schedule": "cosine"},
        }
    )


def run(quick=False):
    figure = Figure((6, 3.2), layout="constrained")
    axes = figure.subplots()
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("dense", "log-polar"):
            means, params = [], []
            for width in WIDTHS[: 2 if quick else None]:
                point = recipe(kind, width, quick)
                results = [fit(point, folder, seed=seed, device="cpu") for seed in range(1 if quick else 3)]
                scores = [100 * result["test_accuracy"] for result in results]
                means.append(statistics.fmean(scores))
                params.append(results[0]["params"])
                axes.plot([width] * len(scores), scores, ".", color="gray", markersize=4)
                told = ", ".join(f"{score:.1f}" for score in scores)
                print(f"{kind:9} {width:2} x {width:<2}  {told} % seed by seed, {params[-1]:,} parameters")
            axes.plot(WIDTHS[: len(means)], means, "-o", label=f"{kind}: {params[0]:,} to {params[-1]:,} parameters")
    axes.set(xlabel="width of the window of conv2, pixels", ylabel="test accuracy, %", xticks=WIDTHS)
    axes.legend(fontsize=8)
    return figure
