"""The program `foveal`: its commands in the order of the help, and the guard that turns their errors into messages."""

from __future__ import annotations

import functools
import os
import platform
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

from foveal.cli.analysis import cam, cost, draw, explore, field
from foveal.cli.choosing import choose
from foveal.cli.deploying import export
from foveal.cli.extras import explained
from foveal.cli.machine import bench, doctor, list_names, tune
from foveal.cli.terminal import say, tell
from foveal.cli.training import evaluate, predict, report, train

app = typer.Typer(
    name="foveal",
    help="Convolutions whose receptive field is shaped instead of square: train, compare and inspect them.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong arguments or recipe, 130 Ctrl-C, 143 SIGTERM.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        import foveal

        tell(f"foveal {foveal.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


def _guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Errors of a command become one message on stderr and an exit code."""

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt as interrupt:
            if _is_one_of_several():  # the launcher sends signals again, and this is the end
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            if not _is_told_elsewhere(interrupt):
                say(str(interrupt) or "stopped")
            raise typer.Exit(128 + getattr(interrupt, "signum", signal.SIGINT)) from None
        except (typer.Exit, BrokenPipeError):  # typer's own; the second is a reader such as head that has gone
            raise
        except Exception as error:
            if "--debug" in sys.argv:
                traceback.print_exc()
            if not _is_told_elsewhere(error):
                say(f"error: {_where()}{_message(error)}")
            if type(error).__name__ == "ProcessLost":
                sys.stdout.flush()
                os._exit(1)  # connections to who is not there any more could hold up an orderly end
            raise typer.Exit(2 if isinstance(error, (ValueError, FileNotFoundError)) else 1) from None

    return guarded


def _is_one_of_several() -> bool:
    return os.environ.get("WORLD_SIZE", "1") != "1"


def _is_told_elsewhere(error: BaseException) -> bool:
    """Of several processes of one run one tells what all know, and before they know each other one on each machine."""
    if not _is_one_of_several() or isinstance(error, ImportError):
        return False
    from foveal.training.processes import are_connected, is_told_elsewhere

    return is_told_elsewhere(error) or not (are_connected() or os.environ.get("LOCAL_RANK", "0") == "0")


def _where() -> str:
    """Which process speaks, where it is not the first one."""
    rank = os.environ.get("RANK", "0")
    return "" if rank == "0" or not _is_one_of_several() else f"rank {rank} on {platform.node()}: "


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, ImportError):
        return explained(error)
    kind = type(error).__name__
    if kind == "OutOfMemoryError":
        return "the device's memory is full: use a smaller --set train.batch_size=N"
    expected = isinstance(error, (ValueError, OSError, FloatingPointError)) or kind in (
        "CheckpointError",
        "ProcessLost",
    )
    return str(error) if expected else f"{kind}: {error} (not expected: --debug shows where)"


_COMMANDS: dict[str, Callable[..., None]] = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "report": report,
    "export": export,
    "list": list_names,
    "cost": cost,
    "choose": choose,
    "draw": draw,
    "explore": explore,
    "field": field,
    "cam": cam,
    "bench": bench,
    "tune": tune,
    "doctor": doctor,
}
for _name, _command in _COMMANDS.items():
    app.command(_name)(_guarded(_command))


def main() -> None:
    """Entry point of the `foveal` command."""
    told: set[str] = set()

    def show(message: Warning | str, *_args: Any, **_kwargs: Any) -> None:
        if (
            str(message) not in told and os.environ.get("RANK", "0") == "0"
        ):  # data is opened before anything trains, and again to train
            told.add(str(message))
            say(f"warning: {message}")

    warnings.showwarning = show
    if _is_one_of_several():
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # what torch's C++ says of a choice that is ours
    arguments = sys.argv[1:]
    if "--debug" in arguments:  # wherever it stands
        arguments = ["--debug", *(argument for argument in arguments if argument != "--debug")]
    app(args=arguments, prog_name="foveal")
