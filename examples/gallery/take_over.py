"""A network of torchvision's deformable convolutions, made safe and fast by one line."""

import subprocess
import sys
import time

import torch
import torchvision
from matplotlib.figure import Figure
from torch import nn

import foveal


class Deformable(nn.Module):
    """As it stands in many repositories: torchvision's layer, with offsets from a convolution."""

    def __init__(self, channels):
        super().__init__()
        self.offsets = nn.Conv2d(channels, 18, 3, padding=1)
        self.conv = torchvision.ops.DeformConv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return self.conv(x, self.offsets(x))


def times(network, images, rounds):
    """Median seconds of a training step."""
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        network(images).square().mean().backward()
        found.append(time.perf_counter() - start)
    return sorted(found)[rounds // 2]


NAN = """
import torch, torchvision, foveal
{line}
offset = torch.zeros(1, 18, 9, 9)
offset[0, 0, 4, 4] = float("nan")
out = torchvision.ops.deform_conv2d(torch.ones(1, 2, 9, 9), offset, torch.ones(3, 2, 3, 3), padding=1)
print("NaN at", int(out.isnan().any(1).sum()), "of 81 positions")
"""


def after_nan(line):
    """What one NaN among the offsets does, tried in a process of its own."""
    done = subprocess.run([sys.executable, "-c", NAN.format(line=line)], capture_output=True, text=True)
    return done.stdout.strip() or f"the process ends with signal {-done.returncode}"


def run(quick=False):
    channels, rounds = (8, 1) if quick else (64, 7)
    network = nn.Sequential(*(Deformable(channels) for _ in range(3)))
    images = torch.randn(1 if quick else 4, channels, 32, 32)

    before, out = times(network, images, rounds), network(images)
    handle = foveal.take_over("torchvision::deform_conv2d")  # the one line
    after, same = times(network, images, rounds), network(images)
    handle.give_back()

    print(
        f"a training step of three layers: {1000 * before:.0f} ms, then {1000 * after:.0f} ms: {before / after:.1f} times as fast"
    )
    print(f"largest difference of the outputs: {(out - same).abs().max():.1e}")
    print("one NaN offset, torchvision: ", after_nan("pass"))
    print("one NaN offset, taken over:  ", after_nan("foveal.take_over('torchvision::deform_conv2d')"))

    figure = Figure((6, 2), layout="constrained")
    axes = figure.subplots()
    axes.barh(["taken over by foveal", "torchvision"], [1000 * after, 1000 * before], color=["#EE8866", "#BBBBBB"])
    axes.set_xlabel("ms for a training step of three deformable layers")
    return figure
