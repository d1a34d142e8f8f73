"""How commands end when something goes wrong: one line, and an exit code that says whose fault it was."""

import errno
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated

import typer

from alorakit.engine.errors import AlorakitError

EXIT_UNEXPECTED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
# What a disk or the rights on it refuse; the user can mend it, and no bug report helps.
_OF_THE_SYSTEM = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOENT,
    errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE,
}  # fmt: skip

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@contextmanager
def reported(debug: bool) -> Iterator[None]:
    """Turn exceptions of a command's body into one line on stderr and an exit code.

    An error raised on purpose exits with 2, or with its own ``exit_code``, and so does what the system refuses, such as
    a full disk; an interrupt with 130, anything else with 1. A pipe that its reader closed ends the command silently.

    Args:
        debug: Print the traceback too.
    """
    try:
        yield
    except (typer.Exit, BrokenPipeError):
        raise
    except AlorakitError as exc:
        code = getattr(exc, "exit_code", EXIT_BAD_INPUT)
        # An interrupt is somebody's wish: what the error says of it is enough.
        _end(str(exc) if code == EXIT_INTERRUPTED else f"error: {exc}", code, debug, exc)
    except KeyboardInterrupt as exc:
        _end("interrupted", EXIT_INTERRUPTED, debug, exc)
    except Exception as exc:
        if isinstance(exc, OSError) and exc.errno in _OF_THE_SYSTEM:
            _drop_output()
            where = exc.filename if exc.filename is not None else "the output"
            _end(f"error: {where}: {exc.strerror}; correct that and run it again", EXIT_BAD_INPUT, debug, exc)
        hint = "" if debug else "; run again with --debug for the traceback, and report it"
        _end(f"unexpected error: {type(exc).__name__}: {exc}{hint}", EXIT_UNEXPECTED, debug, exc)


def _end(line: str, code: int, debug: bool, exc: BaseException) -> None:
    if debug:
        typer.echo("".join(traceback.format_exception(exc)).rstrip(), err=True)
    typer.echo(" ".join(line.split()), err=True)
    raise typer.Exit(code) from exc


def _drop_output() -> None:
    """Give up what stdout still holds if it cannot be written: Python would try again at its end, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
