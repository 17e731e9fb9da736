"""Shapes in noisy volumes: what LogPolarConv3d gains or loses beside Conv3d at equal parameters.

"Coarse" are long rods in four directions in space, whose voxels say the same as their neighbours; "fine" are textures that
differ in the order of single voxels.

Run it: python examples/volumes.py --out docs/results/volumes.json
"""

import torch
from compare import main
from torch import Tensor, nn

from foveal import LogPolarConv3d

SIDE = 12


def rods(count: int) -> tuple[Tensor, Tensor]:
    """A rod through the volume along depth, height, width or the diagonal, at a random place, under noise."""
    labels = torch.arange(count) % 4
    axes = [*torch.eye(3).tolist(), [3**-0.5] * 3]
    direction = torch.tensor(axes)[labels]
    middle = 3 + torch.rand(count, 3) * (SIDE - 6)
    grid = torch.stack(torch.meshgrid(*[torch.arange(float(SIDE))] * 3, indexing="ij"), -1).reshape(1, -1, 3)
    offset = grid - middle[:, None]
    along = (offset * direction[:, None]).sum(-1, keepdim=True)
    across = (offset - along * direction[:, None]).norm(dim=-1)
    rod = (across < 1.5) & (along[..., 0].abs() < 6)
    return (rod.float() + 0.7 * torch.randn(count, SIDE**3)).reshape(count, 1, SIDE, SIDE, SIDE), labels


def textures(count: int) -> tuple[Tensor, Tensor]:
    """Stripes one voxel thick across depth, height or width, or none, of a random start, under noise."""
    labels = torch.arange(count) % 4
    steps = torch.arange(SIDE)
    stripes = (-1.0) ** steps
    patterns = torch.stack(
        [stripes.reshape(shape).expand(SIDE, SIDE, SIDE) for shape in ((-1, 1, 1), (1, -1, 1), (1, 1, -1))]
    )
    patterns = torch.cat([patterns, torch.zeros(1, SIDE, SIDE, SIDE)])
    sign = torch.randint(0, 2, (count, 1, 1, 1)) * 2 - 1
    return (0.25 * sign * patterns[labels] + torch.randn(count, SIDE, SIDE, SIDE))[:, None], labels


def network(layer, classes: int) -> nn.Module:
    return nn.Sequential(
        layer(1, 8), nn.BatchNorm3d(8), nn.ReLU(), nn.AdaptiveMaxPool3d(1), nn.Flatten(), nn.Linear(8, classes)
    )  # fmt: skip


LAYERS = {
    "Conv3d, 3x3x3": lambda c, o: nn.Conv3d(c, o, 3, padding=1),
    "Conv3d, 3x3x3, dilation 3": lambda c, o: nn.Conv3d(c, o, 3, padding=3, dilation=3),
    "LogPolarConv3d, 9x9x9, 25 weights": lambda c, o: LogPolarConv3d(c, o, 9, radial_bins=2, growth_rate=4.0),
    "Conv3d, 9x9x9": lambda c, o: nn.Conv3d(c, o, 9, padding=4),
}

if __name__ == "__main__":
    main(
        "Conv3d and LogPolarConv3d of equal parameters on coarse shapes and on fine textures in volumes",
        {"coarse: rods in noise": rods, "fine: stripes one voxel thick": textures},
        LAYERS,
        network,
        samples=400,
    )
