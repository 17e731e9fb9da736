"""Colours of masks, overlays and differences, pixel by pixel."""

import numpy as np
import torch

from foveal.tasks.masks import difference, overlay, palette


def test_colours() -> None:
    assert len(np.unique(palette(), axis=0)) == 256
    image = torch.full((3, 2, 3), 100, dtype=torch.uint8)
    mask = torch.tensor([[0, 1, 255], [0, 0, 2]])
    over = overlay(image, mask, False)
    assert over[0, 0].tolist() == over[0, 2].tolist() == [100, 100, 100]
    assert over[0, 1].tolist() == [round(45 + 0.55 * 128), 45, 45]
    truth, called = torch.tensor([[0, 1, 1], [2, 255, 0]]), torch.tensor([[0, 1, 0], [1, 1, 3]])
    white, blue, orange, gray = (255, 255, 255), (0, 114, 178), (230, 120, 0), (110,) * 3
    assert [tuple(pixel) for pixel in difference(truth, called).reshape(-1, 3).tolist()] == [
        *((0, 0, 0), white, blue),
        *(orange, gray, orange),
    ]
