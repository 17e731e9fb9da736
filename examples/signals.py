"""A signal that is redundant and one that is dense: what LogPolarConv1d gains on the first and loses on the second.

Three layers of equal parameters and one of five times as many stand in the same network. "Redundant" are slow waves under noise,
whose neighbouring samples say the same; the class is the period. "Dense" are strings of +1 and -1 in which each sample
counts; the class is which of four codes is hidden in the string. The log-polar paper itself says: "LPSC may not be suitable
for semantically dense data such as speech signals, text sequences, and amino acid sequences."

Run it: python examples/signals.py --out docs/results/signals.json
"""

import math

import torch
from compare import main
from torch import Tensor, nn

from foveal import LogPolarConv1d

LENGTH = 256


def slow_waves(count: int) -> tuple[Tensor, Tensor]:
    """Waves of a period of 36, 48, 64 or 85 samples, of any phase, under noise of twice their height."""
    labels = torch.arange(count) % 4
    periods = torch.tensor([36.0, 48.0, 64.0, 85.0])[labels]
    phase = torch.rand(count, 1) * 2 * math.pi
    waves = torch.sin(torch.arange(LENGTH) * 2 * math.pi / periods[:, None] + phase)
    return (waves + 2 * torch.randn(count, LENGTH))[:, None], labels


def hidden_codes(count: int) -> tuple[Tensor, Tensor]:
    """Random strings of +1 and -1 with one of four codes of 13 samples at a random place, each repeated four times."""
    codes = torch.randint(0, 2, (4, 13), generator=torch.Generator().manual_seed(7)) * 2.0 - 1
    labels = torch.arange(count) % 4
    strings = torch.randint(0, 2, (count, LENGTH)) * 2.0 - 1
    for string, label in zip(strings, labels.tolist(), strict=True):
        for start in torch.randint(0, LENGTH - 13, (4,)).tolist():
            string[start : start + 13] = codes[label]
    return strings[:, None], labels


def network(layer, classes: int) -> nn.Module:
    return nn.Sequential(
        layer(1, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.AvgPool1d(2),
        layer(12, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(12, classes),
    )  # fmt: skip


LAYERS = {
    "Conv1d, 13 taps": lambda c, o: nn.Conv1d(c, o, 13, padding=6),
    "Conv1d, 13 taps, dilation 5": lambda c, o: nn.Conv1d(c, o, 13, padding=30, dilation=5),
    "LogPolarConv1d, 65 taps, 13 weights": lambda c, o: LogPolarConv1d(c, o, 65, radial_bins=6, growth_rate=3.0),
    "Conv1d, 65 taps": lambda c, o: nn.Conv1d(c, o, 65, padding=32),
}

if __name__ == "__main__":
    main(
        "Conv1d and LogPolarConv1d of equal parameters on a redundant and on a dense signal",
        {"redundant: slow waves under noise": slow_waves, "dense: codes of +1 and -1": hidden_codes},
        LAYERS,
        network,
    )
