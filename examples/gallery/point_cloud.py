"""Points without a grid: outlines of shapes told apart by a log-polar convolution of points."""

import torch
from matplotlib.figure import Figure
from torch import nn

from foveal import PointLogPolarConv

SHAPES = ("circle", "square", "star", "cross")


def draw(count, points=96):
    """Points on the outlines of shapes, turned, moved and blurred: coordinates Tensor[N, points, 2], labels."""
    labels = torch.arange(count) % len(SHAPES)
    angle = 2 * torch.pi * torch.rand(count, points)
    radius = torch.stack(
        [
            torch.ones_like(angle),
            1 / torch.maximum(angle.cos().abs(), angle.sin().abs()),
            1 + 0.4 * torch.cos(5 * angle),
            0.45 / torch.minimum(angle.cos().abs(), angle.sin().abs()).clamp(min=0.36),
        ]
    )
    radius = radius[labels, torch.arange(count)]
    turn = 2 * torch.pi * torch.rand(count, 1)
    outline = torch.stack([radius * torch.sin(angle + turn), radius * torch.cos(angle + turn)], -1)
    return 0.5 + 0.25 * outline + 0.012 * torch.randn(count, points, 2), labels


class Cloud(nn.Module):
    """Two log-polar convolutions of points, or as control, layers that see each point alone."""

    def __init__(self, near):
        super().__init__()
        kinds = {
            True: lambda i, o: PointLogPolarConv(i, o, 0.2, radial_bins=2, angular_bins=8, growth_rate=3.0),
            False: nn.Linear,
        }
        self.near, self.first, self.second = near, kinds[near](1 if near else 2, 16), kinds[near](16, 32)
        self.head = nn.Linear(32, len(SHAPES))

    def forward(self, points):
        features = torch.ones(*points.shape[:2], 1) if self.near else points - 0.5
        where = (points,) if self.near else ()
        features = torch.relu(self.first(*where, features))
        return self.head(torch.relu(self.second(*where, features)).mean(1))


def run(quick=False):
    points, labels = draw(16 if quick else 600)
    tests, truths = draw(16 if quick else 200)
    for title, near in (("each point alone", False), ("log-polar convolution of points", True)):
        torch.manual_seed(0)
        network = Cloud(near)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
        for _ in range(1 if quick else 8):
            for part in torch.randperm(len(points)).split(20):
                loss = nn.functional.cross_entropy(network(points[part]), labels[part])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        with torch.no_grad():
            right = float((network(tests).argmax(1) == truths).float().mean())
        print(f"{title:32} {right:.1%} of {len(tests)} clouds right (a guess: 25 %)")

    figure = Figure((8, 2.2), layout="constrained")
    for axes, k in zip(figure.subplots(1, len(SHAPES)), range(len(SHAPES)), strict=True):
        with torch.no_grad():
            felt = network.first(points[k : k + 1], torch.ones(1, points.shape[1], 1))[0].norm(dim=-1)
        axes.scatter(points[k, :, 1], points[k, :, 0], c=felt, s=9)
        axes.set_title(f"{SHAPES[k]}, coloured by the first layer", fontsize=7)
        axes.set_aspect("equal")
        axes.axis("off")
    return figure
