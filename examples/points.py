"""Clouds of points, classified: log-polar bins around each point beside the plain mean of its neighbours and no neighbours at all.

"Solids" are surfaces of spheres, cubes, cylinders and tori, turned about the vertical axis: the whole tells. "Pieces" are clouds of small
lines, discs or balls that are strewn alike: only neighbourhoods tell.

Run it: python examples/points.py --out docs/results/points.json
"""

import math

import torch
from compare import main
from torch import Tensor, nn

from foveal import PointLogPolarConv

POINTS, PIECES = 160, 16


def directions(*shape: int) -> Tensor:
    return nn.functional.normalize(torch.randn(*shape, 3), dim=-1)


def solids(count: int) -> tuple[Tensor, Tensor]:
    """Points on the surface of a sphere, a cube, a cylinder or a torus, all of one width, turned and jittered."""
    labels = torch.arange(count) % 4
    turn, height = 2 * math.pi * torch.rand(count, POINTS), 2 * torch.rand(count, POINTS) - 1
    ball = directions(count, POINTS)
    cube = 2 * torch.rand(count, POINTS, 3) - 1
    cube = (cube / cube.abs().amax(-1, keepdim=True)) * 0.8
    pipe = torch.stack((height, turn.cos() * 0.8, turn.sin() * 0.8), -1)
    tilt = 2 * math.pi * torch.rand(count, POINTS)
    ring = 0.7 + 0.3 * tilt.cos()
    torus = torch.stack((0.3 * tilt.sin(), ring * turn.cos(), ring * turn.sin()), -1)
    points = torch.stack((ball, cube, pipe, torus))[labels, torch.arange(count)]
    angle = 2 * math.pi * torch.rand(count, 1)
    z, y, x = points.unbind(-1)
    points = torch.stack((z, y * angle.cos() - x * angle.sin(), y * angle.sin() + x * angle.cos()), -1)
    return points + 0.05 * torch.randn(count, POINTS, 3), labels


def pieces(count: int) -> tuple[Tensor, Tensor]:
    """Sixteen pieces at random places in a cube, each ten points of a line, a disc or a ball that look any way."""
    labels = torch.arange(count) % 3
    shape = (count, PIECES, POINTS // PIECES)
    first, other = directions(count, PIECES, 1), directions(count, PIECES, 1)
    second = nn.functional.normalize(other - (other * first).sum(-1, keepdim=True) * first, dim=-1)
    along, across, turn = (torch.rand(*shape, 1) for _ in range(3))
    line = (2 * along - 1) * first
    disc = across.sqrt() * ((2 * math.pi * turn).cos() * first + (2 * math.pi * turn).sin() * second)
    ball = directions(*shape) * along ** (1 / 3)
    kinds = torch.stack((line, disc, ball))[labels, torch.arange(count)]
    places = 2 * torch.rand(count, PIECES, 1, 3) - 1
    return (places + 0.3 * kinds).flatten(1, 2) + 0.02 * torch.randn(count, POINTS, 3), labels


class Alone(nn.Module):
    """PointNet's idea (CVPR 2017): each point by itself, then the maximum over all."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.head = nn.Linear(width, classes)

    def forward(self, points: Tensor) -> Tensor:
        return self.head(self.body(points).amax(1))


class Around(nn.Module):
    """Two layers over the neighbours of each point, which are found once, then the maximum over all."""

    def __init__(self, width: int, classes: int, **bins) -> None:
        super().__init__()
        self.first = PointLogPolarConv(4, width, radius=0.4, **bins)
        self.second = PointLogPolarConv(width, width, radius=0.4, **bins)
        self.head = nn.Linear(width, classes)

    def forward(self, points: Tensor) -> Tensor:
        found = self.first.neighbors(points)
        features = nn.functional.pad(points, (0, 1), value=1.0)
        features = torch.relu(self.first.weigh(found, features))
        return self.head(torch.relu(self.second.weigh(found, features)).amax(1))


LAYERS = {
    "each point alone": lambda _, classes: Alone(58, classes),
    "PointLogPolarConv, 1 bin: mean of neighbours": lambda _, classes: Around(
        40, classes, radial_bins=1, angular_bins=(1, 1)
    ),
    "PointLogPolarConv, 4 levels": lambda _, classes: Around(
        25, classes, radial_bins=4, angular_bins=(1, 1), growth_rate=2.0
    ),
    "PointLogPolarConv, 2 levels x 12 directions": lambda _, classes: Around(
        10, classes, radial_bins=2, angular_bins=(4, 3), growth_rate=4.0
    ),
}


def network(layer, classes: int) -> nn.Module:
    return layer(3, classes)


if __name__ == "__main__":
    main(
        "Clouds of points: log-polar bins beside the mean of neighbours and points alone, at equal parameters",
        {"solids: the surface as a whole": solids, "pieces: lines, discs and balls": pieces},
        LAYERS,
        network,
        samples=256,
        seeds=5,
    )
