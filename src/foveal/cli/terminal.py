"""Where commands print: results on a console or as lines, the rest as lines on stderr; names cannot steer the terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

# all control characters but tab and the line's end, what turns the direction of writing, bytes that are no UTF-8
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def seen(text: str) -> str:
    r"""Text as a terminal may show it: control characters, which names of files and classes may hold, are escaped.

    Example:
        >>> print(seen("red\x1b[31m.png"))
        red\x1b[31m.png
    """
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def image_size(text: str, such_as: str) -> tuple[int, ...]:
    """Channels, height and width of an --input-size.

    Example:
        >>> image_size("3,32,32", such_as="3,224,224")
        (3, 32, 32)
    """
    sides = re.split("[,x]", text)
    if len(sides) != 3 or not all(side.strip().isdecimal() and int(side) for side in sides):
        raise ValueError(f"--input-size must be channels, height and width: {such_as}; got {text!r}")
    return tuple(map(int, sides))


def say(text: str) -> None:
    """A line beside the results."""
    print(seen(text), file=sys.stderr, flush=True)


def tell(text: str = "", end: str = "\n") -> None:
    """A line of the results."""
    print(seen(text), end=end, flush=True)


def make_console() -> Console:
    """A console for tables, whose own control sequences are its only ones."""
    from rich.console import Console
    from rich.segment import Segment

    class Seen(Console):
        def render(self, *arguments: Any, **keywords: Any) -> Iterable[Segment]:
            for part in super().render(*arguments, **keywords):
                yield part if part.control else Segment(seen(part.text), part.style)

    return Seen(highlight=False, soft_wrap=True)
