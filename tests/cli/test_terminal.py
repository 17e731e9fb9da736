"""What reaches a terminal: names are shown, and never obeyed."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.table import Table

from foveal.cli.terminal import make_console, say, seen, tell

Run = Callable[..., tuple[int, str, str]]
EVIL = "a\x1b[31mb\x07\x9b2J\u202ec\r\x00"
SHOWN = r"a\x1b[31mb\x07\x9b2J\u202ec\r\x00"


def test_what_steers_a_terminal_is_escaped() -> None:
    assert seen(EVIL) == SHOWN
    assert seen(SHOWN) == SHOWN
    assert seen("é 漢字\tone\ntwo") == "é 漢字\tone\ntwo"
    assert seen(os.fsdecode(b"a\xff")) == r"a\udcff"


def test_lines_and_tables(capsys: pytest.CaptureFixture[str]) -> None:
    say(EVIL)
    tell(EVIL)
    table = Table("head", box=None)
    table.add_row(EVIL.replace("[", "("))
    console = make_console()
    console.print(table)
    console.print("x" + EVIL, markup=False)
    captured = capsys.readouterr()
    assert captured.err == SHOWN + "\n"
    assert captured.out.startswith(SHOWN + "\n")
    assert r"a\x1b(31m" in captured.out
    assert r"xa\x1b[31mb" in captured.out
    assert not any(character < " " for character in captured.out.replace("\n", ""))


def test_a_console_keeps_its_own_colours() -> None:
    console = make_console()
    console.file, console._force_terminal, console._color_system = io.StringIO(), True, 1
    console.print("[bold]x[/bold]\x1b[2J", markup=True)
    assert console.file.getvalue() == "\x1b[1mx\x1b[0m\\x1b[2J\n"


def test_an_escape_sequence_in_a_files_name_is_shown(run: Run, trained: Path, table: Path, tmp_path: Path) -> None:
    code, _, err = run("evaluate", trained / "beta/seed0", "--data-root", tmp_path / "\x1b[31m")
    assert code == 2
    assert r"\x1b[31m" in err
    assert "\x1b" not in err


def test_names_of_classes_are_shown(run: Run, trained: Path, table: Path, tmp_path: Path) -> None:
    with np.load(table / "test.npz") as arrays:
        classes: Any = np.array(["\x1b[2J", "b", "c", "d"])
        np.savez(tmp_path / "test.npz", images=arrays["images"], labels=arrays["labels"], classes=classes)
    _, _, err = run("evaluate", trained / "beta/seed0", "--data-root", tmp_path)
    assert r"it has \x1b[2J, b, c, d" in err
    assert "\x1b" not in err
