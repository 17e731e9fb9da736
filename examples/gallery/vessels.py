"""Thin, winding vessels: a small U-Net, plain, with log-polar layers, and with snakes."""

import torch
from matplotlib.figure import Figure
from torch import nn

from foveal import convert
from foveal.models import create_model

ENTRIES = {
    "3x3 convolutions": None,
    "log-polar 9x9 in the first block": {"layer": "log_polar", "kernel_size": 9, "growth_rate": 3.0},
    "snakes in the first block": {"layer": "snake", "length": 9},
}


def draw(count, side=64):
    """Images of dark, noisy vessels that wander across, with distracting blobs, and their masks."""
    rows = torch.arange(side, dtype=torch.float32)
    masks = torch.zeros(count, side, side)
    for image in masks:
        for turned in torch.randint(0, 2, (3,)).tolist():
            bends = torch.randn(3) * torch.tensor([8.0, 5.0, 2.0])
            waves = (
                bends[:, None]
                * torch.sin(torch.tensor([[1.0], [2.0], [4.0]]) * rows * torch.pi / side + torch.rand(3, 1) * 6)
            ).sum(0)
            centre = side * (0.2 + 0.6 * torch.rand(1)) + waves
            line = ((rows[:, None] - centre).abs() < 1.2).float()
            image.copy_(torch.maximum(image, line.T if turned else line))
    blobs = nn.functional.interpolate(torch.randn(count, 1, 9, 9), (side, side), mode="bilinear")[:, 0]
    return (0.5 * blobs - 0.7 * masks + 0.55 * torch.randn(count, side, side))[:, None], masks


def dice(network, images, masks):
    with torch.no_grad():
        found = network.eval()(images)[:, 0] > 0
    return float(2 * (found & (masks > 0)).sum() / (found.sum() + masks.sum())), found


def run(quick=False):
    images, masks = draw(8 if quick else 96)
    test_images, test_masks = draw(4 if quick else 40)
    pictures = {}
    for title, entry in ENTRIES.items():
        torch.manual_seed(0)
        network = create_model("unet", num_classes=1, in_channels=1, width=4 if quick else 8)
        if entry:
            convert(network, {first_convolution(network): entry})
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
        for _ in range(1 if quick else 8):
            network.train()
            for part in torch.randperm(len(images)).split(8):
                loss = nn.functional.binary_cross_entropy_with_logits(network(images[part])[:, 0], masks[part])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        score, found = dice(network, test_images, test_masks)
        pictures[f"{title}\nDice {score:.1%}"] = found[0]
        print(
            f"{title:34} Dice {score:.1%} on {len(test_images)} test images, {sum(p.numel() for p in network.parameters()):,} parameters"
        )

    figure = Figure((9, 2.3), layout="constrained")
    shown = {"image": test_images[0, 0], "truth": test_masks[0], **pictures}
    for axes, (title, picture) in zip(figure.subplots(1, len(shown)), shown.items(), strict=True):
        axes.imshow(picture, cmap="gray")
        axes.set_title(title, fontsize=7)
        axes.axis("off")
    return figure


def first_convolution(network):
    return next(name for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
