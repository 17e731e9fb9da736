"""Randomness without state: 64 random bits for any tuple of whole numbers."""

import torch
from torch import Tensor

_GOLDEN = -0x61C8864680B583EB  # 2**64 / golden ratio, as a signed number
_FIRST = -0x40A7B892E31B1A47
_SECOND = -0x6B2FB644ECCEEE15
_ALL = (1 << 64) - 1


def random_bits(*keys: int | Tensor) -> Tensor:
    """Hash keys to 64 bits that behave as independent, uniform draws; the same bits on every device.

    Source: SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014). The last key
    counts along one sequence of that generator, and the keys before it give the sequence's seed, by the same rule.

    Args:
        keys: whole numbers from 0 to 2**63 - 1, or int64 tensors of them that broadcast against each other.

    Returns:
        int64 Tensor of the keys' common shape; all 64 bits are random, the sign too.

    Example:
        >>> random_bits(7, torch.arange(3))
        tensor([-1560629665965767182,  7276452696135751452,  5680667148098334032])
    """
    state: int | Tensor = 0
    for key in keys:  # plain numbers in plain Python: a tensor of one number takes twenty times as long
        if isinstance(state, int) and isinstance(key, int):
            state = _mix_number(state + (key + 1) * _GOLDEN)
        else:
            state = _mix(_tensor(state) + (_tensor(key) + 1) * _GOLDEN)
    return _tensor(state)


def random_below(bits: Tensor, n: int) -> Tensor:
    """Turn random bits into whole numbers from 0 to n - 1, n at most 2**31, equally likely up to n parts in 2**32.

    Example:
        >>> random_below(random_bits(7, torch.arange(6)), 10)
        tensor([9, 3, 3, 1, 0, 9])
    """
    return _shifted(bits, 32) * n >> 32


def _tensor(x: int | Tensor) -> Tensor:
    """int64; of a number from 0 to 2**64 - 1 the same bits, with a sign."""
    if isinstance(x, Tensor):
        return x
    return torch.tensor(x - (x >> 63 << 64), dtype=torch.int64, device="cpu")


def _mix_number(x: int) -> int:
    x &= _ALL
    x = (x ^ x >> 30) * _FIRST & _ALL
    x = (x ^ x >> 27) * _SECOND & _ALL
    return x ^ x >> 31


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, places: int) -> Tensor:
    """Shift right and fill with zeros, where ``>>`` on int64 would fill with the sign."""
    return (x >> places) & ((1 << (64 - places)) - 1)
