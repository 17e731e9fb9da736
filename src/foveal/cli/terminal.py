"""Where commands print: results on a console, the rest as lines on stderr."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def make_console() -> Console:
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)
