"""What a reader must know about the numbers of a table, sentence by sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from foveal.reports.columns import headline_of, scale_of, step_of

Rows = Sequence[Mapping[str, Any]]


def notes_of(rows: Rows) -> list[str]:
    """All that there is to say of a table, in the order of its columns."""
    topics = (
        _of_seeds,
        _of_statistics,
        _of_other_experiments,
        _of_pace,
        _of_speed,
        _of_missing_seeds,
        _of_worlds,
        _of_brackets,
    )
    return [note for topic in topics for note in topic(rows)] + [note for row in rows for note in _of_a_row(row)]


def _title(rows: Rows) -> str:
    """What the headlines are called."""
    return " or ".join(dict.fromkeys(row["metrics"][0]["title"] for row in rows))


def _of_seeds(rows: Rows) -> Iterator[str]:
    """How many there are, and what their ranges mean."""
    counts = {headline_of(row)["n"] for row in rows}
    if 1 in counts and not any(headline_of(row)["interval"] for row in rows):
        yield "One seed (n = 1): how far seeds lie apart is not known from one, so these rows are in no order of merit."
    elif 1 in counts:
        yield (
            "One seed (n = 1): the range beside it is the 95 % interval that the size of the test set leaves (Wilson). "
            "How far seeds lie apart is not known from one, so these rows are in no order of merit."
        )
    if any(n > 1 for n in counts):
        yield "Several seeds: mean ± standard deviation over them."


def _of_statistics(rows: Rows) -> Iterator[str]:
    """Which epochs the numbers are of."""
    title = _title(rows)
    capital = title.capitalize() if title.islower() else title
    measured = [row for row in rows if headline_of(row)["n"]]
    for kind in {json.dumps(row["statistic"]): row["statistic"] for row in measured}.values():
        if kind == "best":
            chosen = {row["chosen_on"] for row in measured if row["statistic"] == "best"}
            if "val" in chosen:
                yield f"Test {title} of the epoch of each run that is best on the validation images."
            if None in chosen:
                yield f"{capital} of the best epoch of each run, chosen on the test images, as the recipe states."
        elif isinstance(kind, dict):
            alone = "; ± of a single run is over these epochs" if any(headline_of(r)["n"] == 1 for r in rows) else ""
            yield f"{capital} is the mean of the last {kind['mean_of_last']} epochs of each run{alone}."


def _of_other_experiments(rows: Rows) -> Iterator[str]:
    """Rows that are not the table's own."""
    if any(row["quick"] for row in rows):
        yield "Quick rows see a part of the data or of the epochs: not comparable with published numbers."
    for differs in dict.fromkeys(tuple(row["differs"]) for row in rows if row["differs"]):
        names = ", ".join(row["name"] for row in rows if tuple(row["differs"]) == differs)
        own = all(row["own"] for row in rows if tuple(row["differs"]) == differs)
        what = "Changed from what the recipe says" if own else "Differs from the table's own experiment"
        yield f"{what} ({names}): {'; '.join(differs)}."


def _of_pace(rows: Rows) -> Iterator[str]:
    """What "after" is counted to."""
    if any(row["pace"][row["headline"]] for row in rows):
        below = "the training loss stays below the value, and until " if any(r["pace"]["loss"] for r in rows) else ""
        near = f"the test {_title(rows)} is within one point of its last value"
        yield f"After: epochs and seconds of the run until {below}{near}; the median over seeds."


def _of_missing_seeds(rows: Rows) -> Iterator[str]:
    """Rows that are not done."""
    partial: dict[str, list[str]] = {}
    for row in rows:
        done = headline_of(row)["n"]
        if row["seeds"] and 0 < done < row["seeds"]:
            partial.setdefault(f"{done} of {row['seeds']} seeds", []).append(row["name"])
    yield from (f"{seeds}: {', '.join(names)}." for seeds, names in partial.items())


def _of_worlds(rows: Rows) -> Iterator[str]:
    """Runs that several processes trained together."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for run in row["runs"]:
            worlds = run.get("worlds") or [[0, 1]]
            if worlds != [[0, 1]]:
                later = "".join(f", from step {step} on by {size}" for step, size in worlds[1:])
                found.setdefault(f"by {worlds[0][1]} at first{later}" if later else f"by {worlds[0][1]}", []).append(
                    row["name"]
                )
    for how, names in found.items():
        yield f"Trained by several processes together ({how}): {', '.join(dict.fromkeys(names))}."


def _of_brackets(rows: Rows) -> Iterator[str]:
    """How published numbers stand beside several metrics."""
    if any(row["published"] and len(row["metrics"]) > 1 for row in rows):
        yield "Beside a metric, in square brackets: the published number."


def _of_a_row(row: Mapping[str, Any]) -> Iterator[str]:
    """Its baseline, the paper's claims, and runs that are not whole."""
    if row["against"]:
        yield f"{row['name']}: {_verdict(row)}."
    if headline_of(row)["undefined"]:
        yield f"{row['name']}: undefined in {headline_of(row)['undefined']} of its runs, which are left out."
    for claim in row["claims"]:
        yield f"The paper has {row['name']} {claim['claim']}. Here: {claim['seen']}: {claim['verdict']}."
    yield from (f"{run['folder']} is {run['state']}: {run['problem']}" for run in row["runs"] if run["problem"])


def _of_speed(rows: Rows) -> Iterator[str]:
    """When the columns of speed were measured."""
    timed = [row for row in rows if row["ms_per_image"] is not None]
    turns = [row for row in timed if row["in_turns"]]
    if turns:
        sizes = sorted({row["batch"] for row in turns})
        yield (
            "img/s (training steps) and ms/img (inference): the networks of all rows in turns after the last one was trained, "
            f"median of {min(row['turns'] for row in turns)} turns, batches of {' or '.join(map(str, sizes))}."
        )
    if len(turns) < len(timed):
        names = f" ({', '.join(row['name'] for row in timed if not row['in_turns'])})" if turns else ""
        yield (
            f"img/s and ms/img are of each row's own run{names}, one after the other: where the machine was busy for a while "
            "they are no comparison."
        )
    if any((row["published"] or {}).get("ms_per_batch") for row in rows):
        yield "Published time of a batch: on the authors' machine, with the pooled map written out."
    yield from (f"{row['name']} was not timed: {row['not_timed']}" for row in rows if row.get("not_timed"))


def _verdict(row: Mapping[str, Any]) -> str:
    """+1.01 points against conv; even the worst run (78.30) beats its mean."""
    against, found, metric = row["against"], headline_of(row), row["metrics"][0]
    text = f"{against['points']:+.2f} {step_of(metric)} against {against['baseline']}"
    if against["worst_beats"] is None:
        return text
    worst = f"({scale_of(metric) * found['min' if metric['higher_is_better'] else 'max']:.2f})"
    beats = f"even the worst run {worst} beats" if against["worst_beats"] else f"the worst run {worst} does not beat"
    return f"{text}; {beats} its mean"
