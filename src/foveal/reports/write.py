"""Reports: the table of a folder of runs, as one HTML page that stands alone, as JSON, Markdown and for the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from foveal.data.writing import write_file
from foveal.reports.classes import class_tables
from foveal.reports.columns import is_changed, metrics_table, pace_table, results_table
from foveal.reports.notes import notes_of
from foveal.reports.page import page_of
from foveal.reports.table import results, table

if TYPE_CHECKING:
    from rich.console import Console


def report(out: str | Path) -> Path:
    """Write ``table.json`` and ``report.html`` for a folder of runs.

    The page is one file: no script, nothing loaded from elsewhere.

    Args:
        out: the folder with NAME/seedK/ in it.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: there is no run in the folder.
    """
    out = Path(out)
    rows = table(out)
    write_file(out / "table.json", json.dumps({"rows": rows}, indent=2, ensure_ascii=False).encode() + b"\n")
    page = out / "report.html"
    write_file(page, page_of(out, rows).encode())
    return page


def write_json(out: str | Path, path: str | Path) -> None:
    """Keep a table's results in one JSON file: rows, hardware, seeds, the commands that made them, and the notes.

    Args:
        out: the folder with NAME/seedK/ in it.
        path: the file; its name says what is in it: with "quick" for quick rows, "changed" for changed ones.

    Raises:
        FileNotFoundError: there is no run in the folder, or the file's folder is not there.
        ValueError: the name does not say so.
    """
    path = Path(path)
    content = results(out)
    for word, found in (("quick", content["quick"]), ("changed", any(is_changed(row) for row in content["rows"]))):
        if found and word not in path.stem:
            raise ValueError(
                f"--json must have {word!r} in its name, because rows of {out} are {word}: "
                f"{path.with_stem(f'{path.stem}_{word}')}; got {path}"
            )
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise FileNotFoundError(f"--json must name a file in a folder that exists; got {path}")
    content = content | {"notes": notes_of(content["rows"])}
    write_file(path, json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")


def print_table(out: str | Path, console: Console) -> None:
    """Print the table of a folder of runs.

    Args:
        out: the folder with NAME/seedK/ in it.
        console: where to; lines are drawn on a terminal only.

    Raises:
        FileNotFoundError: there is no run in the folder.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows = table(out)
    for heads, lines in (results_table(rows), metrics_table(rows), *class_tables(rows), pace_table(rows)):
        shown = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, padding=(0, 1, 0, 0), pad_edge=False)
        shown.add_column(heads[0], overflow="fold")
        for head in heads[1:]:
            shown.add_column(head, justify="right", no_wrap=True)
        for line in lines:
            shown.add_row(*map(Text, line))
        if lines:
            console.print(shown, soft_wrap=False)
    for note in notes_of(rows):
        console.print(Text(note), soft_wrap=False)


def markdown(out: str | Path) -> str:
    """The table of a folder of runs as Markdown.

    Args:
        out: the folder with NAME/seedK/ in it.

    Raises:
        FileNotFoundError: there is no run in the folder.
    """
    rows = table(out)
    parts = []
    tables = [make(rows, titles=True) for make in (results_table, metrics_table, pace_table)]
    for heads, lines in tables:
        if lines:
            cells = [list(heads), ["---", *["---:"] * (len(heads) - 1)], *lines]
            parts.append("\n".join(f"| {' | '.join(_cell(text) for text in line)} |" for line in cells))
    return "\n\n".join([*parts, "\n".join(f"- {_cell(note)}" for note in notes_of(rows))]) + "\n"


def _cell(text: str) -> str:
    """Text that Markdown leaves as it is."""
    for character in "\\|<*`[":
        text = text.replace(character, f"\\{character}" if character != "<" else "&lt;")
    return " ".join(text.split())
