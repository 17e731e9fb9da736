"""The processes of one run: which of them this is, what they tell each other, and what happens when one of them is lost."""

from __future__ import annotations

import contextlib
import datetime
import os
import pickle
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn

_ROLL_CALL = 3.0  # seconds that a process has to say that it is still there
_CONNECT = 300.0  # seconds in which all processes must have started


class ProcessLost(RuntimeError):
    """Another process of the run has died or hangs; the message says which, and how to go on.

    Attributes:
        speaks: whether this process is the one to tell of it.
    """

    def __init__(self, message: str, speaks: bool = True) -> None:
        super().__init__(message)
        self.speaks = speaks


class World:
    """The processes of one run. Alone it does nothing: everything stays as it is.

    Args:
        rank: this process's number, from 0; the first one writes files and tells of the run.
        size: how many there are.
        store: what they find each other by.
        device: where this one computes.
        timeout: seconds that a process waits for the others.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        store: Any = None,
        device: torch.device | None = None,
        timeout: float = 600.0,
    ) -> None:
        self.rank, self.size, self.store, self.timeout = rank, size, store, timeout
        self.waits = 0
        self.group: Any = None
        self.data_group: Any = None
        self.people: list[str] = []
        if size > 1:
            wait = datetime.timedelta(seconds=timeout)
            # numbers that decide what comes next travel between CPUs, so that no one waits for a GPU
            self.group = dist.new_group(backend="gloo", timeout=wait)
            on_gpu = device is not None and device.type == "cuda"
            self.data_group = dist.new_group(backend="nccl", timeout=wait) if on_gpu else self.group
            self.people = self.gather(f"process {os.getpid()} on {platform.node()}")

    def __deepcopy__(self, memo: Any) -> World:
        return self

    @property
    def is_first(self) -> bool:
        """Whether this process writes and tells."""
        return self.rank == 0

    # ---- what they tell each other ----

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, by rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.group)
        found[self.rank] = value
        return found

    def agree(self, *numbers: int) -> list[int]:
        """The largest that any process has of each number, on all of them."""
        if self.size == 1:
            return list(numbers)
        largest = torch.tensor(numbers, dtype=torch.int64, device="cpu")
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self.group)
        return largest.tolist()

    def add(self, part: Tensor) -> Tensor:
        """The sum of a tensor over all processes, on its device."""
        if self.size > 1:
            dist.all_reduce(part, group=self.data_group if part.is_cuda else self.group)
        return part

    def total(self, sums: Any) -> Any:
        """A task's sums over all processes, on each of them; None stands for those of no image.

        Tensors are added up in float64, so that counts are exact; objects with their ``+``, by rank.
        """
        if self.size == 1:
            return sums
        shapes = self.gather(tuple(sums.shape) if isinstance(sums, Tensor) else None)
        shape = next((shape for shape in shapes if shape is not None), None)
        if shape is not None:
            whole = torch.zeros(shape, dtype=torch.float64, device="cpu")
            whole = whole if sums is None else sums.detach().to("cpu", torch.float64, copy=True)
            dist.all_reduce(whole, group=self.group)
            return whole if sums is None else whole.to(sums.device)
        found = [part for part in self.gather(sums) if part is not None]
        return sum(found[1:], start=found[0]) if found else None

    def summed(self, share: float) -> Callable[[Tensor], Tensor]:
        """What adds a tensor up over all processes, this one's times a share; gradients of the sum are those of the parts."""
        return lambda part: _Sum.apply(part, share, self)

    def same_buffers(self, *models: nn.Module | None) -> None:
        """Give all processes the first one's buffers, such as the running statistics of batch normalisation."""
        for model in models if self.size > 1 else ():
            for buffer in model.buffers() if model is not None else ():
                dist.broadcast(buffer, 0, group=self.data_group if buffer.is_cuda else self.group)

    # ---- what they do together ----

    def first(self, call: Callable[[], Any], patient: bool = False) -> Any:
        """Do something in the first process; all get what it gives, or raise what it raises; however long it takes if `patient`."""
        if self.size == 1:
            return call()
        if patient and self.store is not None:
            self.waits += 1
            key = f"first/{self.waits}"
            if self.is_first:
                outcome = _done(call)
                self.store.set(key, pickle.dumps(outcome))
            else:
                while not self.store.check([key]):
                    time.sleep(0.1)
                outcome = pickle.loads(self.store.get(key))
            self.agree(0)  # the first process may hold the store, and leaves when all have read it
            return _given(outcome, self.is_first)
        found: list[Any] = [_done(call) if self.is_first else None]
        dist.broadcast_object_list(found, 0, group=self.group)
        return _given(found[0], self.rank == 0)

    def together(self, call: Callable[[], Any]) -> Any:
        """Do something in every process; where it fails in one, all raise what that one raises."""
        if self.size == 1:
            return call()
        mine = _done(call)
        outcomes = self.gather(None if mine[0] else mine)
        failed = next((rank for rank, outcome in enumerate(outcomes) if outcome is not None), None)
        return _given(mine if failed is None else outcomes[failed], failed in (None, self.rank))

    def close(self) -> None:
        """Close the connections; the processes go on."""
        for group in {self.group, self.data_group} - {None}:
            dist.destroy_process_group(group)
        self.group = self.data_group = None

    def wrapped(self, network: nn.Module, device: torch.device) -> nn.Module:
        """A network whose gradients are the mean over all processes after a backward pass."""
        if self.size == 1:
            return network
        # Without the search for unused parameters the buckets of gradients are built anew after the first step, and a run
        # that goes on would add up in another order: from three processes on it would end with other bits.
        how: dict[str, Any] = {"find_unused_parameters": True, "process_group": self.data_group}
        ids = [device.index] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(network, device_ids=ids, **how)

    def adding_up(self, network: nn.Module, last: bool) -> contextlib.AbstractContextManager[None]:
        """Around a forward and a backward pass: the processes' gradients are added up in the last one of a step alone."""
        if isinstance(network, nn.parallel.DistributedDataParallel):
            return contextlib.nullcontext() if last else network.no_sync()
        if (turn := getattr(network, "set_requires_gradient_sync", None)) is not None:  # its parameters are shared out
            turn(last)
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Turn what a lost process makes fail in here into a `ProcessLost` that says which one it is."""
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or isinstance(error, ProcessLost) or not _is_of_the_network(error):
                raise
            self._tell_of_the_lost(error)

    def _tell_of_the_lost(self, error: RuntimeError) -> NoReturn:
        """Find out who still answers; one of them tells."""
        for group in {self.group, self.data_group}:
            with contextlib.suppress(Exception):
                group.abort()  # closes its connections, so that nobody waits for this process
        dead = [rank for rank, person in enumerate(self.people) if _is_seen_dead(person)]
        there, end = {self.rank}, time.monotonic() + _ROLL_CALL
        with contextlib.suppress(Exception):
            self.store.set(f"there/{self.rank}", "yes")
            while time.monotonic() < end and len(there) < self.size - 1:
                there |= {rank for rank in range(self.size) if self.store.check([f"there/{rank}"])}
                time.sleep(0.05)
        speaks = True
        with contextlib.suppress(Exception):
            speaks = self.store.add("tells", 1) == 1
        missing = [rank for rank in range(self.size) if rank not in there]
        # of those that do not answer some may only be slow to notice
        gone = [rank for rank in missing if rank in dead] or missing
        lost = [f"rank {rank} ({self.people[rank]})" for rank in gone]
        who = ", ".join(lost) if lost else "another process"
        verb = "have" if len(lost) > 1 else "has"
        raise ProcessLost(
            f"{who} {verb} died, or not answered for {self.timeout:g} s (train.timeout); the others stop with the last "
            f"state that was saved: run the same command to go on: {_command()}",
            speaks=speaks,
        ) from error


class _Sum(torch.autograd.Function):
    """The sum over all processes. Each has the whole's loss of it, and the mean of their gradients is taken afterwards, so the
    gradient of a part is that of the sum."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, share: float, world: World) -> Tensor:
        ctx.share = share
        return world.add(part.detach() * share if part.is_floating_point() else part.detach().clone() * int(share))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0] * ctx.share, None, None


_runs = 0


def open_world(device: torch.device, timeout: float) -> World:
    """The processes that torchrun, or who else sets its variables, has started for one run; alone where there are none.

    Args:
        device: where this process computes.
        timeout: seconds that a process waits for the others, before it takes them for lost.
    """
    global _runs
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    if not dist.is_initialized():
        start = datetime.timedelta(seconds=_CONNECT)
        found, rank, size = next(iter(dist.rendezvous("env://", timeout=start)))
        # torchrun hands the same store to processes that it starts again, with all that the former ones put into it
        store = dist.PrefixStore(f"foveal/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", found)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=start)
        _stores.append(store)
    _runs += 1
    common = dist.PrefixStore(f"run/{_runs}", _stores[0]) if _stores else None
    return World(dist.get_rank(), dist.get_world_size(), common, device, timeout)


_stores: list[Any] = []


def rank_and_size() -> tuple[int, int]:
    """This process's rank and how many there are, as the environment says."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    return (int(os.environ.get("RANK", "0")), size) if size > 1 else (0, 1)


def are_connected() -> bool:
    """Whether this process has found the others."""
    return bool(_runs)


def close_world() -> None:
    """Take leave of the other processes, where there are any."""
    if dist.is_initialized():
        dist.destroy_process_group()


def is_told_elsewhere(error: BaseException) -> bool:
    """Whether another process tells the user of an error."""
    return getattr(error, "told_elsewhere", False) or not getattr(error, "speaks", True)


def _done(call: Callable[[], Any]) -> tuple[bool, Any]:
    """Whether something could be done, and what it gave or raised."""
    try:
        return True, call()
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # others could not be told of it as it is
            error = RuntimeError(f"{type(error).__name__}: {error}")
        return False, error


def _given(outcome: tuple[bool, Any], here: bool) -> Any:
    done, value = outcome
    if done:
        return value
    value.told_elsewhere = not here
    raise value


def _is_of_the_network(error: RuntimeError) -> bool:
    told = str(error).lower()
    return isinstance(error, dist.DistError) or any(
        word in told for word in ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "tcpstore")
    )


def _is_seen_dead(person: str) -> bool:
    """Whether a process, "process N on HOST", is of this machine, and has ended or is stopped."""
    number, _, host = person.removeprefix("process ").partition(" on ")
    try:
        state = Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        state = "X"
    return host == platform.node() and state in "ZXTt"


def _command() -> str:
    """What starts the run again."""
    command = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
    local, size = os.environ.get("LOCAL_WORLD_SIZE"), os.environ.get("WORLD_SIZE")
    if "TORCHELASTIC_RUN_ID" in os.environ and local == size:
        command = ["torchrun", "--nproc-per-node", str(size), "-m", *command]
    return shlex.join(command)
