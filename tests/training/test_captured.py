"""A training step as a CUDA graph: which batches are recorded and replayed, with a graph that only remembers its step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from foveal.training import captured
from foveal.training.captured import CapturedStep


class Graph:
    """Runs again what a step called while it was recorded, on the tensors of then."""

    recorded: Callable[[], None]
    latest: Callable[[], None]  # of all steps

    def replay(self) -> None:
        self.recorded()


class Stream:
    def wait_stream(self, other: object) -> None:
        pass


@pytest.fixture
def without_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def record(graph: Graph, **kwargs: Any) -> Iterator[None]:
        yield
        graph.recorded = Graph.latest

    cuda = captured.torch.cuda
    for name, instead in {"Stream": Stream, "CUDAGraph": Graph, "graph": record, "current_stream": Stream}.items():
        monkeypatch.setattr(cuda, name, instead)
    monkeypatch.setattr(cuda, "stream", contextlib.nullcontext)


@pytest.mark.usefixtures("without_a_device")
def test_batches_of_the_first_shape_are_replayed() -> None:
    plain = []

    def step(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        found = torch.zeros(())

        def again() -> None:
            found.copy_((images * labels[:, None]).sum())

        plain.append(len(images))
        Graph.latest = again
        again()
        return found

    recorded = CapturedStep(step)
    given = [(torch.full((n, 2), float(k)), torch.arange(n)) for k, n in enumerate((4, 4, 3, 4, 4, 4, 3, 4))]
    results = [recorded(*batch) for batch in given]
    assert plain == [4, 4, 3, 4, 4, 3], "the fourth of the first shape is recorded; a smaller one goes the plain way"
    assert [float(value) for value in results] == [float((x * y[:, None]).sum()) for x, y in given]
