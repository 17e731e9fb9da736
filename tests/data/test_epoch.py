"""The order of an epoch, its parts, and reading them by processes, whose number changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from foveal.data.epoch import order_of, parts_of, read_in


def test_orders() -> None:
    orders = {(seed, epoch): order_of(50, seed, epoch, train=True).tolist() for seed in (0, 1) for epoch in (0, 1)}
    assert len({tuple(order) for order in orders.values()}) == 4
    assert all(sorted(order) == list(range(50)) for order in orders.values())
    assert order_of(50, 1, 1, train=True).tolist() == orders[1, 1]
    assert order_of(4, 1, 1, train=False).tolist() == [0, 1, 2, 3]
    assert order_of(0, 0, 0, train=True).tolist() == []


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("count", [0, 1, 6, 7])
def test_parts_go_on_in_the_middle(count: int, drop_last: bool) -> None:
    order = order_of(count, 0, 0, train=True)
    whole = parts_of(order, 3, drop_last=drop_last)
    assert [len(part) for part in whole] == [3] * (count // 3) + ([count % 3] if count % 3 and not drop_last else [])
    assert [k for part in whole for k in part] == order.tolist()[: sum(map(len, whole))]
    for start in range(4):
        assert parts_of(order, 3, drop_last=drop_last, start_batch=start) == whole[start:]


def read(indices: Sequence[int]) -> Any:
    return ValueError(f"{indices[0]} cannot be read") if indices[0] == 5 else torch.tensor(indices)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_their_order(workers: int) -> None:
    state = torch.get_rng_state()
    found = list(read_in([[3, 1], [0], [4, 2]], read, workers=workers))
    assert [batch.tolist() for batch in found] == [[3, 1], [0], [4, 2]]
    stream = read_in([[3], [5], [4]], read, workers=workers)
    assert next(stream).tolist() == [3]
    with pytest.raises(ValueError, match=r"^5 cannot be read$"):
        next(stream)
    assert list(read_in([], read, workers=workers)) == []
    assert torch.equal(torch.get_rng_state(), state), "nothing is drawn from the global generator"
