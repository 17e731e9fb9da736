"""Starts several processes as torchrun does, quickly: what they import is imported once, and each is forked from it.

A program that reads a line of JSON for each world and answers with one; `Worlds` in conftest.py talks to it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import traceback
from typing import Any

import torch

import foveal.cli.commands
import foveal.reports.write
import foveal.training.speed

for name in (
    "foveal.cli.training",
    "foveal.training.loop",
    "torchvision",
    "faster_coco_eval",
    "matplotlib.figure",
    "jinja2",
):
    __import__(name)  # what forked processes would each import


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def child(rank: int, port: int, job: dict[str, Any]) -> None:
    """One process: the command line, or some lines of Python, with its output in a file."""
    size = job["size"]
    told = os.open(f"{job['log']}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(told, 1)
    os.dup2(told, 2)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"} | job["env"])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
    try:
        if "code" in job:
            exec(
                compile(job["code"], "job", "exec"),
                {"__name__": "__main__", "rank": rank, "size": size, **job["given"]},
            )
            code = 0
        else:
            if not job["report"]:  # what follows the training takes longer than these trainings
                foveal.training.speed.time_in_turns = lambda *_, **__: None
                foveal.reports.write.report = foveal.reports.write.print_table = lambda *_, **__: None
            sys.argv = ["foveal", *job["argv"]]
            foveal.cli.commands.main()
            code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Fork the processes and wait for them; `signals` are sent as soon as a file is there: [rank, number, path]."""
    port, start = free_port(), time.monotonic()
    children = []
    for rank in range(job["size"]):
        pid = os.fork()
        if not pid:
            child(rank, port, job)
        children.append(pid)
    waiting, ends, codes = list(job["signals"]), {}, {}
    while len(codes) < len(children):
        for rank, number, path in list(waiting):
            if os.path.exists(path):
                waiting.remove([rank, number, path])
                os.kill(children[rank], number)
                ends.setdefault("signal", time.monotonic() - start)
        for rank, pid in enumerate(children):
            if rank not in codes:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    codes[rank], ends[rank] = os.waitstatus_to_exitcode(status), time.monotonic() - start
        if time.monotonic() - start > job["limit"]:
            for rank, pid in enumerate(children):
                if rank not in codes:
                    os.kill(pid, signal.SIGKILL)
        if job["release"] and set(range(job["size"])) - set(codes) == set(job["release"]):
            for rank in job["release"]:
                os.kill(children[rank], signal.SIGKILL)
        time.sleep(0.005)
    return {"codes": [codes[rank] for rank in range(job["size"])], "ends": {str(key): end for key, end in ends.items()}}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
