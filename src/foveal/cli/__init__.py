"""The command line: each command is a few lines on top of a function that Python users have too."""

from foveal.cli.commands import app, main

__all__ = ["app", "main"]
