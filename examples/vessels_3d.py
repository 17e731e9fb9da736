"""Vessels in noisy volumes, voxel by voxel: log-polar layers beside small, dilated and large convolutions.

A volume holds winding tubes, which are wanted, and balls of the same width and brightness, which are not: a voxel alone does not
tell which it is of, its neighbourhood does. "Wide" noise is strong and of single voxels; "thin" tubes are one voxel wide.

Run it: python examples/vessels_3d.py --out docs/results/vessels_3d.json
"""

import torch
import torch.nn.functional as F
from compare import main
from torch import Tensor, nn

from foveal import LogPolarConv3d

SIDE = 16


def centres_of_a_tube(steps: int) -> Tensor:
    """Points along a line that turns a little at every step, from a random place."""
    turns = 0.25 * torch.randn(steps, 3)
    direction = F.normalize(torch.randn(3) + turns.cumsum(0), dim=1)
    return torch.rand(3) * SIDE + (direction.cumsum(0) - direction.cumsum(0)[steps // 2])


def near(points: Tensor, radius: float) -> Tensor:
    """The voxels within a radius of any of the points."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(float(SIDE))] * 3, indexing="ij"), -1).reshape(-1, 3)
    return (torch.cdist(grid, points).amin(1) < radius).reshape(SIDE, SIDE, SIDE)


def volumes(count: int, radius: float, noise: float) -> tuple[Tensor, Tensor]:
    """Volumes [count, 1, D, H, W] and masks of their tubes, exact: two tubes and eight balls, which may meet."""
    inputs, masks = [], []
    for _ in range(count):
        tubes = near(torch.cat([centres_of_a_tube(2 * SIDE) for _ in range(2)]), radius)
        balls = near(torch.rand(8, 3) * SIDE, 1.6 * radius)
        inputs.append((tubes | balls).float() + noise * torch.randn(SIDE, SIDE, SIDE))
        masks.append(tubes)
    return torch.stack(inputs)[:, None], torch.stack(masks)[:, None].long()


def dice(network: nn.Module, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], epochs: int) -> float:
    """Train by Adam with a rate that falls to zero, and return the overlap 2 |A & B| / (|A| + |B|) on the test set."""
    optimizer, batch = torch.optim.Adam(network.parameters(), lr=1e-2), 2
    steps = epochs * -(-len(train[0]) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for chosen in torch.randperm(len(train[0])).split(batch):
            logits, mask = network(train[0][chosen]), train[1][chosen].float()
            overlap = 2 * (logits.sigmoid() * mask).sum() / (logits.sigmoid().sum() + mask.sum())
            loss = F.binary_cross_entropy_with_logits(logits, mask) + 1 - overlap  # few voxels are wanted
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.no_grad():
        found = torch.cat([network(some) > 0 for some in test[0].split(batch)])
    wanted = test[1].bool()
    return float(2 * (found & wanted).sum() / (found.sum() + wanted.sum()).clamp(min=1))


def network(layer, classes: int) -> nn.Module:
    parts = [nn.Sequential(layer(c, 8), nn.BatchNorm3d(8), nn.ReLU()) for c in (1, 8)]
    return nn.Sequential(*parts, nn.Conv3d(8, 1, 1))


LAYERS = {
    "Conv3d, 3x3x3": lambda c, o: nn.Conv3d(c, o, 3, padding=1, bias=False),
    "Conv3d, 3x3x3, dilation 3": lambda c, o: nn.Conv3d(c, o, 3, padding=3, dilation=3, bias=False),
    "LogPolarConv3d, 9x9x9, 25 weights": lambda c, o: LogPolarConv3d(
        c, o, 9, radial_bins=2, growth_rate=4.0, bias=False
    ),
    "Conv3d, 9x9x9": lambda c, o: nn.Conv3d(c, o, 9, padding=4, bias=False),
}

if __name__ == "__main__":
    main(
        "Vessels among balls in noisy volumes: convolutions of equal parameters and of equal field",
        {
            "wide: tubes four voxels wide under strong noise": lambda count: volumes(count, 2.0, 1.0),
            "thin: tubes two voxels wide under little noise": lambda count: volumes(count, 1.0, 0.3),
        },
        LAYERS,
        network,
        samples=24,
        epochs=10,
        seeds=5,
        score=dice,
        of="test Dice",
        size=(1, SIDE, SIDE, SIDE),
    )
