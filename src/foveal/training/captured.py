"""A training step as a CUDA graph: the host starts it with one call in place of hundreds."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], Tensor]
_PLAIN = 3  # steps before the capture: what is compiled, chosen or allocated once is not part of a graph


class CapturedStep:
    """Calls a step as it is for the first few batches, then records it, and from then on replays it.

    Every call is one step, also those before and the one in which it is recorded. A batch of another shape than the first,
    such as an epoch's last, goes the plain way. Random numbers follow the generator of the device, seeded between calls.

    Args:
        step: takes images and labels on a CUDA device, reads and changes nothing else than tensors that stay where they
            are in memory, does not wait for the device, and returns a tensor.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self.stream = torch.cuda.Stream()
        self.plain = 0
        self.first: torch.Size | None = None
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        self.first = self.first or images.shape
        if images.shape != self.first or (self.graph is None and self.plain < _PLAIN):
            self.plain += images.shape == self.first
            return self._beside(images, labels)
        if self.graph is None:
            self._record(images, labels)
        self.images.copy_(images)
        self.labels.copy_(labels)
        assert self.graph is not None
        self.graph.replay()
        return self.found.clone()

    def _beside(self, images: Tensor, labels: Tensor) -> Tensor:
        """A plain step on the stream of the capture, so that autograd knows of no other one."""
        main = torch.cuda.current_stream()
        self.stream.wait_stream(main)
        with torch.cuda.stream(self.stream):
            found = self.step(images, labels)
        main.wait_stream(self.stream)
        return found

    def _record(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images.clone(), labels.clone()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
            self.found = self.step(self.images, self.labels)
