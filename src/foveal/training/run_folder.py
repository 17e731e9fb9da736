"""The folder of a run: what its JSON files hold, and that it belongs to one recipe."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import shlex
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from foveal.data.writing import explained, write_file
from foveal.recipes.load import load_recipe
from foveal.recipes.schema import Recipe
from foveal.training import checkpoint


@contextlib.contextmanager
def held(run: Path) -> Iterator[None]:
    """Keep other processes from training into a run's folder; the system lets go of it when the process ends.

    Raises:
        BlockingIOError: another process holds it; the message says which.
        OSError: the folder cannot be written.
    """
    owner, lock = run / ".owner", filelock.FileLock(run / ".lock")
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    since = datetime.datetime.now(datetime.UTC).isoformat(" ", "seconds")
    me = f"process {os.getpid()} on {platform.node()} since {since} ({command})"
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        try:
            holder = owner.read_text(encoding="utf-8")
        except OSError:
            holder = "another process"
        raise BlockingIOError(
            f"{run} is being trained by {holder}; wait for it, stop it, or choose another --out"
        ) from None
    except NotImplementedError:
        warnings.warn(f"the disk of {run} has no locks: nothing keeps a second training out of it", stacklevel=3)
    except OSError as error:
        raise explained(error, run) from error
    try:
        write_file(owner, me.encode())
        yield
    finally:
        with contextlib.suppress(OSError):
            owner.unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Wait until no other process times the rows of a table or writes its report."""
    out.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(out / ".lock")
    with contextlib.suppress(NotImplementedError):  # a disk without locks: files are put in place whole all the same
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def refuse_other_recipe(run: Path, recipe: Recipe) -> None:
    """A run's folder belongs to one recipe; titles and the place of the data may change.

    Raises:
        ValueError: it was begun with another one.
    """
    path = run / "recipe.yaml"
    if not path.exists() or not any((run / name).exists() for name in ("checkpoint", "result.json")):
        return
    old, new = load_recipe(path).identity(), recipe.identity()
    changed = [
        f"{section}.{key}"
        for section in ("task", "model", "data", "train")
        for key in {**old[section], **new[section]}
        if old[section].get(key) != new[section].get(key)
    ]
    if old["convert"] != new["convert"]:
        changed.append("convert")
    if changed:
        what = ", ".join(changed)
        raise ValueError(f"{run} is a run of another recipe (different: {what}); choose another --out, or delete {run}")


def refuse_other_checkpoint(saved: checkpoint.Checkpoint, recipe: Recipe, seed: int) -> None:
    """A checkpoint that was moved here from another run would go on as something that it is not.

    Raises:
        CheckpointError: it is not of this run.
    """
    about = saved.manifest
    other = [key for key, here in (("seed", seed),) if about.get(key) != here]
    try:
        same = Recipe.model_validate(about.get("recipe")).identity() == recipe.identity()
    except ValueError:
        same = False
    if not same:
        other.append("recipe")
    if other:
        cure = f"put back what was here, or delete {saved.folder.parent} to start again"
        raise checkpoint.CheckpointError(f"{saved.folder} is of another run (different: {', '.join(other)}); {cure}")


def refuse_other_data(saved: checkpoint.Checkpoint, here: dict[str, Any]) -> None:
    """Training that goes on with other images or classes would be of neither.

    Args:
        saved: the checkpoint.
        here: what the data is like now: ``classes``, ``in_channels``, and ``images``, how many train and test.

    Raises:
        CheckpointError: it was another data set when the run began; the message has both.
    """
    changed = [
        f"{key} were {saved.manifest[key]}, and are {now}"
        for key, now in here.items()
        if saved.manifest.get(key, now) != now
    ]
    if changed:
        cure = f"put the data back as it was, choose another --out, or delete {saved.folder.parent} to start again"
        raise checkpoint.CheckpointError(
            f"the data is not what {saved.folder} was trained on ({'; '.join(changed)}); {cure}"
        )


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file of a run holds.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it, then the run is measured again") from error


def to_json(content: dict[str, Any]) -> bytes:
    """The bytes of a JSON file of a run."""
    return json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n"
