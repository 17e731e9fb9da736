"""The hash behind order and augmentation: its definition, and that its bits look independent and uniform."""

import pytest
import torch

from foveal.data.hashing import random_below, random_bits

MASK = (1 << 64) - 1


def splitmix64(seed: int, counter: int) -> int:
    """The counter-th output of SplitMix64, in unbounded whole numbers."""
    z = (seed + (counter + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def chi_square(counts: torch.Tensor) -> float:
    expected = counts.sum() / counts.numel()
    return ((counts - expected) ** 2 / expected).sum().item()


def limit(cells: int) -> float:
    """Five standard deviations above the mean of chi-square."""
    return cells - 1 + 5 * (2 * (cells - 1)) ** 0.5


def test_published_outputs_of_the_generator():
    outputs = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
    assert [bits & MASK for bits in random_bits(torch.arange(4)).tolist()] == outputs


def test_keys_are_seeds_of_the_next_sequence():
    keys = (3, 2**63 - 1, 12)
    state = 0
    for key in keys:
        state = splitmix64(state, key)
    assert random_bits(*keys).item() & MASK == state


def test_tensors_broadcast():
    rows, columns = torch.arange(3)[:, None], torch.arange(5)
    table = random_bits(9, rows, columns)
    assert table.shape == (3, 5)
    assert all(table[i, j] == random_bits(9, i, j) for i in range(3) for j in range(5))


def test_random_below_takes_the_upper_bits():
    bits = random_bits(1, torch.arange(1000))
    expected = [((b & MASK) >> 32) * 7 >> 32 for b in bits.tolist()]
    assert random_below(bits, 7).tolist() == expected
    assert random_below(bits, 1).eq(0).all()
    assert random_below(torch.tensor([-1, 0, 2**63 - 1, -(2**63)]), 2**31).tolist() == [2**31 - 1, 0, 2**30 - 1, 2**30]


@pytest.mark.parametrize("n", [2, 3, 9, 10, 1000])
def test_uniform_in_every_key(n):
    numbers = torch.arange(n * 2000)
    for bits in (random_bits(0, 0, numbers), random_bits(0, numbers, 0), random_bits(numbers, 0, 0)):
        assert chi_square(torch.bincount(random_below(bits, n), minlength=n)) < limit(n)


def test_neighbours_are_independent():
    numbers = torch.arange(100_000)
    pairs = [
        (random_bits(0, 0, numbers), random_bits(0, 0, numbers + 1)),
        (random_bits(0, 0, numbers), random_bits(0, 1, numbers)),
        (random_bits(0, 0, numbers), random_bits(1, 0, numbers)),
        (random_bits(0, 1, numbers), random_bits(1, 0, numbers)),
    ]
    for first, second in pairs:
        joint = random_below(first, 10) * 10 + random_below(second, 10)
        assert chi_square(torch.bincount(joint, minlength=100)) < limit(100)


def test_avalanche():
    """Each bit of a key changes each bit of the hash in half of the cases."""
    numbers = random_bits(5, torch.arange(4096)) & (2**63 - 1)
    places = torch.arange(64)
    for bit in range(63):
        changed = random_bits(0, numbers) ^ random_bits(0, numbers ^ (1 << bit))
        share = (changed[:, None] >> places & 1).double().mean(0)
        assert (share - 0.5).abs().max() < 0.05  # six standard deviations


def test_no_collisions():
    table = random_bits(torch.arange(30)[:, None, None], torch.arange(30)[:, None], torch.arange(1000))
    assert table.unique().numel() == table.numel()
