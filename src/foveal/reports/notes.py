"""What a reader must know about the numbers of a table, sentence by sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from foveal.reports.columns import headline_of, scale_of, step_of


def notes_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader must know about the numbers."""
    counts = {headline_of(row)["n"] for row in rows}
    titles = dict.fromkeys(row["metrics"][0]["title"] for row in rows)
    title = " or ".join(titles)
    capital = title.capitalize() if title.islower() else title
    notes = []
    if 1 in counts and not any(headline_of(row)["interval"] for row in rows):
        notes.append(
            "One seed (n = 1): how far seeds lie apart is not known from one, so these rows are in no order of merit."
        )
    elif 1 in counts:
        notes.append(
            "One seed (n = 1): the range beside it is the 95 % interval that the size of the test set leaves (Wilson). "
            "How far seeds lie apart is not known from one, so these rows are in no order of merit."
        )
    if any(n > 1 for n in counts):
        notes.append("Several seeds: mean ± standard deviation over them.")
    statistics = {json.dumps(row["statistic"]): row["statistic"] for row in rows if headline_of(row)["n"]}
    for kind in statistics.values():
        if kind == "best":
            chosen = {row["chosen_on"] for row in rows if row["statistic"] == "best" and headline_of(row)["n"]}
            if "val" in chosen:
                notes.append(f"Test {title} of the epoch of each run that is best on the validation images.")
            if None in chosen:
                notes.append(
                    f"{capital} of the best epoch of each run, chosen on the test images, as the recipe states."
                )
        elif isinstance(kind, dict):
            alone = "; ± of a single run is over these epochs" if 1 in counts else ""
            notes.append(f"{capital} is the mean of the last {kind['mean_of_last']} epochs of each run{alone}.")
    if any(row["quick"] for row in rows):
        notes.append("Quick rows see a part of the data or of the epochs: not comparable with published numbers.")
    for differs in dict.fromkeys(tuple(row["differs"]) for row in rows if row["differs"]):
        names = ", ".join(row["name"] for row in rows if tuple(row["differs"]) == differs)
        own = all(row["own"] for row in rows if tuple(row["differs"]) == differs)
        what = "Changed from what the recipe says" if own else "Differs from the table's own experiment"
        notes.append(f"{what} ({names}): {'; '.join(differs)}.")
    if any(row["pace"][row["headline"]] for row in rows):
        below = "the training loss stays below the value, and until " if any(r["pace"]["loss"] for r in rows) else ""
        near = f"the test {title} is within one point of its last value"
        notes.append(f"After: epochs and seconds of the run until {below}{near}; the median over seeds.")
    notes += _of_speed(rows)
    partial: dict[str, list[str]] = {}
    for row in rows:
        done = headline_of(row)["n"]
        if row["seeds"] and 0 < done < row["seeds"]:
            partial.setdefault(f"{done} of {row['seeds']} seeds", []).append(row["name"])
    notes += [f"{seeds}: {', '.join(names)}." for seeds, names in partial.items()]
    if any(row["published"] and len(row["metrics"]) > 1 for row in rows):
        notes.append("Beside a metric, in square brackets: the published number.")
    for row in rows:
        if row["against"]:
            notes.append(f"{row['name']}: {_verdict(row)}.")
        if headline_of(row)["undefined"]:
            notes.append(
                f"{row['name']}: undefined in {headline_of(row)['undefined']} of its runs, which are left out."
            )
        for claim in row["claims"]:
            notes.append(f"The paper has {row['name']} {claim['claim']}. Here: {claim['seen']}: {claim['verdict']}.")
        notes += [f"{run['folder']} is {run['state']}: {run['problem']}" for run in row["runs"] if run["problem"]]
    return notes


def _of_speed(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """When the columns of speed were measured."""
    timed = [row for row in rows if row["ms_per_image"] is not None]
    notes = []
    turns = [row for row in timed if row["in_turns"]]
    if turns:
        sizes = sorted({row["batch"] for row in turns})
        notes.append(
            "img/s (training steps) and ms/img (inference): the networks of all rows in turns after the last one was trained, "
            f"median of {min(row['turns'] for row in turns)} turns, batches of {' or '.join(map(str, sizes))}."
        )
    if len(turns) < len(timed):
        names = f" ({', '.join(row['name'] for row in timed if not row['in_turns'])})" if turns else ""
        notes.append(
            f"img/s and ms/img are of each row's own run{names}, one after the other: where the machine was busy for a while "
            "they are no comparison."
        )
    if any((row["published"] or {}).get("ms_per_batch") for row in rows):
        notes.append("Published time of a batch: on the authors' machine, with the pooled map written out.")
    return notes + [f"{row['name']} was not timed: {row['not_timed']}" for row in rows if row.get("not_timed")]


def _verdict(row: Mapping[str, Any]) -> str:
    """+1.01 points against conv; even the worst run (78.30) beats its mean."""
    against, found, metric = row["against"], headline_of(row), row["metrics"][0]
    text = f"{against['points']:+.2f} {step_of(metric)} against {against['baseline']}"
    if against["worst_beats"] is None:
        return text
    worst = f"({scale_of(metric) * found['min' if metric['higher_is_better'] else 'max']:.2f})"
    beats = f"even the worst run {worst} beats" if against["worst_beats"] else f"the worst run {worst} does not beat"
    return f"{text}; {beats} its mean"
