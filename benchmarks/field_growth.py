"""How receptive fields grow with the kernel and with the depth: python benchmarks/field_growth.py.

Stacks of 1 to 16 equal layers with random weights and no activation, several seeds each; the width of the field of the middle position is
fitted with a * k**p * n**q. Theory gives p = 1 and q = 1/2 for conventional convolutions.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from torch import nn

from foveal import LogPolarConv2d
from foveal.analysis import draw_field_growth, field_growth, save
from foveal.training.environment import environment

CHANNELS = 8
STACKS = {
    "conventional": lambda k: nn.Conv2d(CHANNELS, CHANNELS, k, padding="same"),
    "log-polar, mean (the paper)": lambda k: LogPolarConv2d(CHANNELS, CHANNELS, k, growth_rate=3.0),
    "log-polar, sum": lambda k: LogPolarConv2d(CHANNELS, CHANNELS, k, growth_rate=3.0, reduce="sum"),
}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kernel-sizes", type=int, nargs="+", default=[5, 7, 9, 11, 13])
    parser.add_argument("--depths", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=Path("field_growth.json"))
    parser.add_argument("--picture", type=Path, default=Path("field_growth.png"))
    chosen = parser.parse_args(arguments)
    found = {}
    for name, layer in STACKS.items():
        found[name] = field_growth(
            lambda k, n, layer=layer: nn.Sequential(*(layer(k) for _ in range(n))),
            kernel_sizes=chosen.kernel_sizes,
            depths=chosen.depths,
            seeds=chosen.seeds,
            in_channels=CHANNELS,
        )
        p, q = found[name].kernel_exponent, found[name].depth_exponent
        print(f"{name}: kernel size {p[0]:.3f} ± {p[1]:.3f}, depth {q[0]:.3f} ± {q[1]:.3f}", flush=True)
    content = {
        "environment": environment(torch.device("cpu")),
        "theory": {"kernel_exponent": 1, "depth_exponent": 0.5},
        "channels": CHANNELS,
        "log_polar": {"radial_bins": 2, "angular_bins": 6, "growth_rate": 3.0, "support": "disk"},
        "seeds": list(range(chosen.seeds)),
        "stacks": {
            name: {
                "kernel_sizes": growth.kernel_sizes,
                "depths": growth.depths,
                "kernel_exponent": dict(zip(("mean", "std"), growth.kernel_exponent, strict=True)),
                "depth_exponent": dict(zip(("mean", "std"), growth.depth_exponent, strict=True)),
                "width_mean": [[round(w, 4) for w in row] for row in growth.widths.mean(0).tolist()],
                "width_std": [[round(w, 4) for w in row] for row in growth.widths.std(0).tolist()],
            }
            for name, growth in found.items()
        },
    }
    chosen.json.write_text(json.dumps(content, indent=1) + "\n")
    save(draw_field_growth(found), chosen.picture)


if __name__ == "__main__":
    main(sys.argv[1:])
