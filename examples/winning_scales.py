"""Which scales win on objects of which size, trained against untrained: python examples/winning_scales.py [RUNS [IMAGES JSON]].

A small network with an anisotropic convolution of scales 1, 2 and 4 learns drawn shapes (nothing is downloaded, a few minutes on a
CPU) in RUNS (runs/winning_scales). Its pictures go to IMAGES (RUNS by default), its numbers, with hardware, seed and command, to
JSON (RUNS/scales_quick.json).
"""

import json
import sys
from pathlib import Path

import torch

from foveal.analysis import (
    SharesBySize,
    draw_feature_maps,
    draw_shares_by_size,
    draw_winning_shares,
    shares_by_size,
    winning_shares,
)
from foveal.data import batches, draw_shapes, preset
from foveal.data.datasets import ImageSet
from foveal.training import Recipe, build, fit, load_run
from foveal.training.environment import environment

RECIPE = Recipe.model_validate(
    {
        "name": "shapes-quick",
        "form": "quick",
        "model": {"name": "small_cnn"},
        "convert": {"conv3": {"layer": "anisotropic", "scales": [1, 2, 4], "offset_bound": "half"}},
        "data": {"name": "shapes"},
        "train": {
            "epochs": 10,
            "batch_size": 64,
            "lr": 0.05,
            "nesterov": True,
            "weight_decay": 5e-4,
            "schedule": "cosine",
        },
    }
)


def layer_input(model, images):
    """What conv3 gets when the network sees images."""
    caught = []
    hook = model.conv3.register_forward_pre_hook(lambda _, given: caught.append(given[0]))
    with torch.no_grad():
        model.eval()(images)
    hook.remove()
    return caught[0]


def listed(found: SharesBySize) -> dict[str, list]:
    return {key: value.tolist() for key, value in vars(found).items()}


def main(runs: Path, pictures: Path, numbers: Path) -> None:
    result = fit(RECIPE, runs)
    networks = {
        "untrained": build(RECIPE, num_classes=5, in_channels=3).eval(),
        "trained": load_run(runs / RECIPE.name / "seed0")[1],
    }
    drawn = draw_shapes(600, seed=7)
    probe = ImageSet("probe", "test", drawn.images, drawn.labels, drawn.classes)
    stream = batches(probe, batch_size=600, seed=0, epoch=0, train=False, preset=preset("shapes"))
    images, _ = next(iter(stream))
    few = [int(drawn.diameters.sub(side).abs().argmin()) for side in (10, 20, 30, 42)]
    found, scales = {}, networks["trained"].conv3.scales
    for name, model in networks.items():
        seen = layer_input(model, images)
        found[name] = shares_by_size(winning_shares(model.conv3, seen), drawn.masks)
        figure = draw_winning_shares(model.conv3, seen[few], image=drawn.images[few])
        figure.savefig(pictures / f"winning_scales_{name}.png")
    draw_shares_by_size(found, scales).savefig(pictures / "scales_by_size.png")
    draw_feature_maps(networks["trained"], images[few[2]], ["conv1", "conv2", "conv3"]).savefig(
        pictures / "feature_maps.png"
    )
    content = {
        "quick": True,
        "command": "python examples/winning_scales.py",
        "environment": {k: v for k, v in environment(torch.device("cpu")).items() if k != "command"},
        "seed": 0,
        "recipe": RECIPE.model_dump(include={"model", "convert", "data", "train"}),
        "test_accuracy": result["test_accuracy"],
        "test_n": result["test_n"],
        "scales": list(scales),
        "shares_by_size": {name: listed(each) for name, each in found.items()},
    }
    numbers.write_text(json.dumps(content, indent=1) + "\n")
    print(f"test accuracy {result['test_accuracy']:.2%}; pictures in {pictures}, numbers in {numbers}")


if __name__ == "__main__":
    home = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs") / "winning_scales"
    home.mkdir(parents=True, exist_ok=True)
    main(
        home,
        Path(sys.argv[2]) if len(sys.argv) > 2 else home,
        Path(sys.argv[3]) if len(sys.argv) > 3 else home / "scales_quick.json",
    )
