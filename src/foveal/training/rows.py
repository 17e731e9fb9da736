"""Tables of recipes: read, checked, and trained row by row."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from foveal.data.writing import write_file
from foveal.models.pretrained import asks_for_weights
from foveal.recipes.load import find_recipes, load_row, packaged_recipes
from foveal.recipes.schema import Quoted, Recipe
from foveal.training.environment import pick_device
from foveal.training.processes import World, open_world
from foveal.training.run import build, fit
from foveal.training.saved import open_data
from foveal.training.watchers import Watcher


@dataclass(frozen=True)
class FittedTable:
    """What `fit_table` came to: each run's result.json, the runs that diverged, ``NAME/seedK``, and those that other processes
    train, each with who it is."""

    results: list[dict[str, Any]]
    diverged: list[str]
    elsewhere: dict[str, str]


def fit_table(
    rows: Sequence[Recipe | Quoted],
    out: str | Path,
    *,
    seeds: int | None = None,
    device: str | torch.device = "auto",
    watch: Iterable[Watcher | str] = (),
    part: tuple[int, int] | None = None,
) -> FittedTable:
    """Train the rows of a table with their seeds, one after the other; what is trained already is left as it is.

    The data of every row is opened before any of them trains; a row that diverges does not cost the others. Any number of
    processes may train a table into one folder: each takes the next run that nobody holds, and what one left that died. Where a
    disk has no locks, ``part`` shares the runs out. Processes that torchrun starts train each run together.
    `foveal.training.time_in_turns` then times the rows side by side, `foveal.reports.report` writes the page.

    Args:
        rows: what `read_table` gives.
        out: folder of the table.
        seeds: train each row with the seeds 0 to seeds - 1; the recipe's by default.
        device: ``"auto"`` is CUDA where there is one, else the CPU.
        watch: as in `fit`; watchers hear of all runs, and names make a new one for each run.
        part: (I, N), the I-th of N shares of the runs, from 1; the same shares in every process.

    Raises:
        ValueError: there is nothing to train, or data or a run's folder is not in order.
        Interrupted: Ctrl-C or SIGTERM; the same call goes on.
    """
    trained = [row for row in rows if isinstance(row, Recipe)]
    if not trained:
        names = ", ".join(row.name for row in rows) or "no row"
        raise ValueError(f"{names}: published only (model: null), there is nothing to train")
    chosen, watch = pick_device(device), list(watch)
    world = open_world(chosen, max(row.train.timeout for row in trained))
    with world.watched():
        _begin(rows, trained, Path(out), world)
        world.close()
    done = FittedTable([], [], {})
    left = runs_of(trained, seeds, part)
    while left:
        taken = []
        done.elsewhere.clear()
        for recipe, seed in left:
            name = f"{recipe.name}/seed{seed}"
            try:
                done.results.append(fit(recipe, out, seed=seed, device=chosen, watch=watch))
            except FloatingPointError:
                done.diverged.append(name)
            except BlockingIOError as error:  # another process has it; it may have died when all else is done
                taken.append((recipe, seed))
                done.elsewhere[name] = str(error)
        if len(taken) == len(left):
            break
        left = taken
    return done


def _begin(rows: Sequence[Recipe | Quoted], trained: Sequence[Recipe], out: Path, world: World) -> None:
    """Look at all data, and write the rows that are quoted."""
    world.first(lambda: check_data(trained), patient=True)  # it may fetch them
    beside = os.environ.get("LOCAL_RANK") == "0" and not world.is_first
    world.together(lambda: check_data(trained) if beside else None)  # on other machines
    if world.is_first:
        write_quoted(rows, trained, out)


def write_quoted(rows: Sequence[Recipe | Quoted], trained: Sequence[Recipe], out: Path) -> None:
    """Write the rows that are quoted, unless what is trained is another experiment than the published one."""
    if any(row.is_quick or row.differences for row in trained):
        return
    for row in rows:
        if isinstance(row, Quoted):
            write_file(out / row.name / "recipe.yaml", row.dump().encode())


def runs_of(
    rows: Sequence[Recipe], seeds: int | None = None, part: tuple[int, int] | None = None
) -> list[tuple[Recipe, int]]:
    """The runs of a table, row by row and seed by seed, or one of their shares.

    Args:
        rows: those that are trained.
        seeds: each row with the seeds 0 to seeds - 1; the recipe's by default.
        part: (I, N): every N-th run from the I-th on.

    Raises:
        ValueError: there is no such share.
    """
    runs = [(row, seed) for row in rows for seed in range(seeds or row.seeds)]
    if part is None:
        return runs
    share, shares = part
    if not 1 <= share <= shares:
        raise ValueError(f"part must be I/N with I from 1 to N; got {share}/{shares}")
    return runs[share - 1 :: shares]


def read_table(
    names: Sequence[str | Path], overrides: Sequence[str] = (), *, quick: bool = False
) -> list[Recipe | Quoted]:
    """The rows of a table in their order, each read and built for a try; all mistakes in them at once.

    Args:
        names: recipe files, folders of them, or packaged ones, such as ``"quickstart"``.
        overrides: ``"train.lr=0.1"`` and the like, for all rows.
        quick: each row at the small size that it states.

    Raises:
        FileNotFoundError: nothing by such a name.
        ValueError: all that is wrong, by file and line.

    Example:
        >>> [row.name for row in read_table(["quickstart"])]
        ['conv', 'dilated', 'deformable', 'log_polar', 'anisotropic']
    """
    rows: list[Recipe | Quoted] = []
    mistakes = []
    for name in names:
        table: list[Recipe | Quoted] = []
        paths = find_recipes(name)
        for path in paths:
            try:
                row = load_row(path, overrides, quick=quick)
                if isinstance(row, Recipe):
                    # Built here to be thrown away: a mistake in the last row must not show after hours of training.
                    said = row.model.model_dump()
                    shape = {"num_classes": said.get("num_classes", 10), "in_channels": said.get("in_channels", 3)}
                    build(row, **shape, fetch=False)
                table.append(row)
            except ValueError as error:
                mistakes.append(str(error))
        trained = [row for row in table if isinstance(row, Recipe)]
        known = [re.sub("-(quick|changed)$", "", row.name) for row in trained]
        if len(table) == len(paths) > 1:
            mistakes += [
                f"{name}: {key} of {row.name} must be a row of the table: {', '.join(known)}; got {other}"
                for row in trained
                for key, other in (("baseline", row.baseline), *(("claims", claim.other) for claim in row.claims))
                if other and other not in known
            ]
        rows += sorted(table, key=lambda row: (row.row, row.name))
    found = [row.name for row in rows]
    mistakes += [f"two recipes have the name {name}" for name in sorted(set(found)) if found.count(name) > 1]
    if mistakes:
        raise ValueError("\n".join(mistakes))
    return rows


def check_data(rows: Sequence[Recipe]) -> None:
    """Open the data of every row before any of them trains, and what the network has to fit there.

    Raises:
        ValueError: all that is wrong; a single problem as it is.
    """
    problems = {}
    checked: list[tuple[Any, int, int]] = []
    for row in rows:
        try:
            shape = next((shape for data, *shape in checked if data == row.data), None)
            if shape is None:
                train_set = open_data(row)[0]
                shape = [row.make_task().outputs(train_set.classes), train_set[0][0].shape[0]]
                checked.append((row.data, shape[0], shape[1]))
            said = row.model.model_dump()
            if asks_for_weights(said) or {"num_classes", "in_channels"} & said.keys():
                build(row, num_classes=shape[0], in_channels=shape[1])
        except (ValueError, OSError, ImportError) as error:
            problems[str(error)] = error
    if len(problems) == 1:
        raise next(iter(problems.values()))
    if problems:
        raise ValueError("\n".join(problems))


def default_out(name: str | Path, rows: Sequence[Recipe]) -> Path:
    """runs/<folder> for a packaged folder or a row of it, runs/<name> for a file or folder of the user's."""
    asked = Path(name)
    if asked.exists():
        folder = Path("runs") / (asked.resolve().name if asked.is_dir() else asked.stem)
    else:
        folder = Path("runs") / find_recipes(name)[0].parent.relative_to(packaged_recipes())
    for ending in ("-quick", "-changed"):
        if any(row.name.endswith(ending) for row in rows):
            return folder.with_name(folder.name.removesuffix(ending) + ending)
    return folder
