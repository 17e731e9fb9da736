"""The runs of a table as tasks of Ray, on the cards of one machine or of a cluster."""

from __future__ import annotations

import io
import os
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from foveal.recipes.schema import Quoted, Recipe
from foveal.training.environment import pick_device
from foveal.training.rows import FittedTable, check_data, runs_of, write_quoted
from foveal.training.run import fit
from foveal.training.signals import Interrupted
from foveal.training.watchers import Progress

_TELL = 1.0  # seconds between two words of a run, and between two looks at all runs
_MARK = ".seen-by-ray"

States = Mapping[str, Mapping[str, Any]]
"""For each run, NAME/seedK, its ``state`` (waiting, trains, done, diverged, failed, elsewhere) and where it stands."""


def fit_table_on_ray(
    rows: Sequence[Recipe | Quoted],
    out: str | Path,
    *,
    seeds: int | None = None,
    address: str | None = None,
    gpus_per_run: float | None = None,
    cpus_per_run: float = 1.0,
    retries: int = 10,
    show: Callable[[States], None] | None = None,
    part: tuple[int, int] | None = None,
) -> FittedTable:
    """Train the rows of a table with their seeds, each run as a task of Ray with its share of a card and of processors.

    A run whose worker or machine is lost begins again where its last checkpoint is: ``out`` should lie on storage that all
    machines see. Where it does not, a run's folder is brought back when the run has ended, and one that is lost begins anew.

    Args:
        rows, out, seeds, part: as in `fit_table`.
        address: of a cluster, ``"auto"`` for the one that this machine belongs to; without one Ray starts here.
        gpus_per_run: cards, or a share of one; by default one where there are any.
        cpus_per_run: processors.
        retries: how often a run is taken up again after its worker was lost.
        show: called every second with where all runs stand.

    Raises:
        ImportError: Ray is not installed.
        ValueError: there is nothing to train; or a run failed, with its message.
        Interrupted: Ctrl-C or SIGTERM; all runs are saved, and the same call goes on.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError("--on ray needs Ray: pip install 'foveal[ray]'") from error
    trained = [row for row in rows if isinstance(row, Recipe)]
    if not trained:
        raise ValueError("the rows are published only (model: null), there is nothing to train")
    if address is None:
        check_data(trained)  # a cluster's machines may have what is not here
    out = Path(out).absolute()
    out.mkdir(parents=True, exist_ok=True)
    write_quoted(rows, trained, out)
    started = not ray.is_initialized()
    if started:
        ray.init(address=address, log_to_driver=False, **({} if address else {"include_dashboard": False}))
    try:
        if gpus_per_run is None:
            gpus_per_run = 1.0 if ray.cluster_resources().get("GPU", 0) else 0.0
        board = ray.remote(num_cpus=0)(Board).remote()
        mark = os.urandom(8).hex()
        (out / _MARK).write_text(mark)
        needs: dict[str, Any] = {"num_cpus": cpus_per_run, "num_gpus": gpus_per_run, "max_retries": retries}
        task = ray.remote(**needs)(_one_run)
        place = (str(out), str(Path.cwd()), mark, "cuda" if gpus_per_run else "cpu", os.environ.get("FOVEAL_DATA"))
        waiting = {
            task.remote(recipe.model_dump(), seed, place, board): f"{recipe.name}/seed{seed}"
            for recipe, seed in runs_of(trained, seeds, part)
        }
        return _followed(ray, waiting, board, out, show)
    finally:
        (out / _MARK).unlink(missing_ok=True)
        if started:
            ray.shutdown()


def _followed(
    ray: Any, waiting: dict[Any, str], board: Any, out: Path, show: Callable[[States], None] | None
) -> FittedTable:
    """Wait for all tasks, and tell of them."""
    done, failed = FittedTable([], [], {}), []
    states: dict[str, dict[str, Any]] = {name: {"state": "waiting"} for name in waiting.values()}
    try:
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=_TELL)
            for name, told in ray.get(board.all.remote()).items():
                if states[name]["state"] in ("waiting", "trains"):
                    states[name] = {"state": "trains", **told}
            for reference in ready:
                name = waiting.pop(reference)
                try:
                    end = ray.get(reference)
                except Exception as error:  # its worker was lost more often than it may be
                    end = {"state": "failed", "message": str(error).strip().splitlines()[-1]}
                states[name] |= {key: value for key, value in end.items() if key in ("state", "message")}
                if end["state"] == "done":
                    _bring_back(end, out / name)
                    done.results.append(end["result"])
                elif end["state"] == "diverged":
                    done.diverged.append(name)
                elif end["state"] == "elsewhere":
                    done.elsewhere[name] = end["message"]
                else:
                    failed.append(f"{name}: {end['message']}")
            if show is not None:
                show(states)
    except KeyboardInterrupt:
        for reference in waiting:
            ray.cancel(reference)  # Ctrl-C in its process: it saves
        ray.wait(list(waiting), num_returns=len(waiting), timeout=30)
        raise
    if failed:
        raise ValueError("\n".join(failed))
    return done


class Board:
    """Where all runs stand: an actor that they tell, and that is asked."""

    def __init__(self) -> None:
        self.told: dict[str, dict[str, Any]] = {}

    def tell(self, name: str, told: dict[str, Any]) -> None:
        """Of one run."""
        self.told[name] = told

    def all(self) -> dict[str, dict[str, Any]]:
        """Of all that have begun."""
        return self.told


def _one_run(
    said: dict[str, Any], seed: int, place: tuple[str, str, str, str, str | None], board: Any
) -> dict[str, Any]:
    """Train one run in a worker's process; what it came to."""
    out, home, mark, device, data = place
    if data is not None:
        os.environ.setdefault("FOVEAL_DATA", data)
    if os.path.isdir(home):
        os.chdir(home)  # relative places of data mean what they mean where the command was given
    recipe = Recipe.model_validate(said)
    name, told_at = f"{recipe.name}/seed{seed}", 0.0
    try:
        shared = (Path(out) / _MARK).read_text() == mark
    except OSError:
        shared = False

    def tell(progress: Progress) -> None:
        nonlocal told_at
        if time.monotonic() - told_at > _TELL or progress.row is not None:
            told_at = time.monotonic()
            told = {key: getattr(progress, key) for key in ("epoch", "epochs", "step", "steps", "loss", "seconds_left")}
            board.tell.remote(name, {**told, "host": os.uname().nodename})

    try:
        result = fit(recipe, out, seed=seed, device=pick_device(device), progress=tell)
    except FloatingPointError as error:
        return {"state": "diverged", "message": str(error)}
    except BlockingIOError as error:
        return {"state": "elsewhere", "message": str(error)}
    except Interrupted as interrupt:
        return {"state": "failed", "message": str(interrupt)}
    except (ValueError, OSError, ImportError) as error:
        return {"state": "failed", "message": str(error)}
    files = None if shared else _packed(Path(out) / name)
    return {"state": "done", "result": result, "files": files}


def _packed(folder: Path) -> bytes:
    """The files of a folder."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.name not in (".lock", ".owner"):
                archive.write(path, path.relative_to(folder))
    return buffer.getvalue()


def _bring_back(end: Mapping[str, Any], folder: Path) -> None:
    """Unpack the files of a run that lie on another machine's disk."""
    if end.get("files") is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(io.BytesIO(end["files"])) as archive:
        archive.extractall(folder)
