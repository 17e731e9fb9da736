"""What the tests of the benchmark share: a watch that measures nothing, cases made up, and the printed table."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rich.console import Console

from foveal.bench import print_table
from foveal.bench.timing import Case, Row, Sides, Time, Watch


class Untimed(Watch):
    """Keeps the sides instead of measuring them; each is told to take one second."""

    def __init__(self) -> None:
        super().__init__(threads=1, quick=True)
        self.sides: list[Sides] = []

    def medians(self, sides: Sides) -> dict[str, Time]:
        self.sides.append(sides)
        return dict.fromkeys(sides, Time(1.0, 0.0))


@pytest.fixture
def watch() -> Untimed:
    return Untimed()


@pytest.fixture
def case() -> Callable[..., Case]:
    """Makes a case that yields the rows given, then fails where an error is given."""

    def make(*rows: Row, error: BaseException | None = None) -> Case:
        def measure(watch: Watch) -> Iterator[Row]:
            yield from rows
            if error:
                raise error

        return Case("a title", measure)

    return make


@pytest.fixture
def printed() -> Callable[..., str]:
    """The table of a run, as text."""

    def call(results: dict[str, Any], width: int) -> str:
        file = io.StringIO()
        print_table(results, Console(file=file, width=width, highlight=False))
        return file.getvalue()

    return call
