"""Pictures of masks: colours, overlays, files, and the input beside truth, prediction and difference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from foveal.data import IGNORE
from foveal.extras import extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RIGHT, MISSED, EXTRA = (255, 255, 255), (0, 114, 178), (230, 120, 0)
"""White, blue and orange: an object found, missed, and seen where there is none."""


def palette() -> np.ndarray:
    """The colours of PASCAL VOC's masks, uint8 [256, 3]: bits of the class number, from the highest bit of a colour down.

    Example:
        >>> palette()[[0, 1, 15, 255]].tolist()
        [[0, 0, 0], [128, 0, 0], [192, 128, 128], [224, 224, 192]]
    """
    numbers = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((numbers >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colours


def coloured(mask: Tensor, binary: bool) -> np.ndarray:
    """A mask as a picture, uint8 [H, W, 3]; in black and white where there are two classes."""
    numbers = mask.cpu().numpy()
    if binary:
        return (
            np.where(numbers[..., None] == 1, 255, np.where(numbers[..., None] == IGNORE, 128, 0))
            .repeat(3, 2)
            .astype(np.uint8)
        )
    return palette()[numbers]


def overlay(image: Tensor, mask: Tensor, binary: bool) -> np.ndarray:
    """An image, uint8 Tensor[3, H, W], with what a mask says laid over it, uint8 [H, W, 3]; background stays as it is."""
    pixels = image.permute(1, 2, 0).cpu().numpy().astype(np.float64)
    colours = np.array([[0, 255, 230]]) if binary else palette()
    where = mask.cpu().numpy()
    above = colours[np.zeros_like(where) if binary else where]
    share = np.where((where == 0) | (where == IGNORE), 0.0, 0.85 if binary else 0.55)[..., None]
    return (pixels * (1 - share) + above * share).round().astype(np.uint8)


def difference(truth: Tensor, called: Tensor) -> np.ndarray:
    """Where a prediction is right and wrong, uint8 [H, W, 3].

    White: an object of the right class; blue: an object that was missed; orange: one that is not there, or of another
    class; gray: nothing is said; black: background in both.
    """
    true, found = truth.cpu().numpy(), called.cpu().numpy()
    picture = np.zeros((*true.shape, 3), dtype=np.uint8)
    picture[(true == found) & (true > 0)] = RIGHT
    picture[(true > 0) & (found == 0)] = MISSED
    picture[(found > 0) & (true != found)] = EXTRA
    picture[true == IGNORE] = 110
    return picture


def draw_cases(cases: list[tuple[str, Tensor, Tensor, Tensor]], *, binary: bool) -> Figure:
    """Draw images beside their truth, the prediction and the difference, a row each.

    Args:
        cases: a caption, the image uint8 Tensor[3, H, W], the true mask and the predicted one, Tensor[H, W].
        binary: masks are of two classes.

    Example:
        >>> mask = torch.eye(8, dtype=torch.int64)
        >>> figure = draw_cases([("one", torch.zeros(3, 8, 8, dtype=torch.uint8), mask, mask)], binary=True)
        >>> [axes.get_title() for axes in figure.axes]
        ['one', 'truth', 'prediction', 'difference']
    """
    Figure = extra("matplotlib.figure").Figure

    height = sum(2.5 * image.shape[1] / image.shape[2] + 0.3 for _, image, _, _ in cases)
    figure = Figure(figsize=(10.4, height + 0.35), layout="constrained", facecolor="white")
    rows = figure.subplots(len(cases), 4, squeeze=False)
    for k, (caption, image, truth, called) in enumerate(cases):
        pictures = {
            caption: image.permute(1, 2, 0).cpu().numpy(),
            "truth": coloured(truth, binary),
            "prediction": coloured(called, binary),
            "difference": difference(truth, called),
        }
        for axes, (title, picture) in zip(rows[k], pictures.items(), strict=True):
            axes.imshow(picture, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            if k == 0 or title == caption:
                axes.set_title(title, fontsize=10, color="black")
    legend = "difference: white = found, blue = missed, orange = seen where there is none"
    figure.supxlabel(legend + ("" if binary else ", or another class; gray = not looked at"), fontsize=9, color="black")
    return figure


def to_image(image: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """A normalised image back as uint8 Tensor[3, H, W]."""
    shift, scale = (torch.tensor(value, device=image.device)[:, None, None] for value in (mean, std))
    return ((image * scale + shift) * 255).round().clamp(0, 255).byte()


def write_probabilities(maps: Tensor, mask: Tensor, classes: Sequence[str], stem: Path) -> list[Path]:
    """The probability of each class, or of an object, at each pixel of an image, as numbers and as a picture."""
    size = list(mask.shape)
    shares = F.interpolate(maps.float(), size, mode="bilinear", align_corners=False)[0].clamp(0, 1).cpu()
    chosen = shares[0] if len(shares) == 1 else shares.gather(0, mask[None])[0]
    names = classes[-1:] if len(shares) == 1 else classes
    written = [stem.with_name(f"{stem.name}_{end}") for end in ("probabilities.npz", "probability.png")]
    np.savez_compressed(written[0], probabilities=shares.numpy(), classes=np.array(names))
    save_picture((chosen * 255).round().byte().numpy(), written[1])
    return written


def save_mask(mask: Tensor, binary: bool, path: Path) -> None:
    """Write a mask as a palette image whose values are the classes, or, of two, as a picture of 0 and 255."""
    Image = extra("PIL.Image")

    picture = Image.fromarray((mask * (255 if binary else 1)).to(torch.uint8).numpy())
    if not binary:
        picture.putpalette(palette().flatten().tolist())
    picture.save(path)


def save_picture(pixels: np.ndarray, path: Path) -> None:
    """Write uint8 [H, W] or [H, W, 3]."""
    Image = extra("PIL.Image")

    Image.fromarray(pixels).save(path)
