"""The files that the requester writes, one of which may be standard output: `-`.

Whether they can be written is found out before the run.

To find out, no file is made, opened, cut or removed: what a path names (a link to nowhere, a pipe with a reader) stays
as it is until there is something to write.
"""

import os
import stat
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from mockchat.core.program import ProgramError

STANDARD_OUTPUT = Path("-")


def check(paths: Sequence[Path], data: Iterable[Path]) -> None:
    """Raise `ProgramError` where one can't be written, is one of the recordings in `data`, or comes twice."""
    if paths.count(STANDARD_OUTPUT) > 1:
        raise ProgramError("standard output can be one file only: give another a name in place of -")
    taken = set(map(os.path.realpath, data))
    for path in paths:
        if path == STANDARD_OUTPUT:
            continue
        name = os.path.realpath(path)
        if name in taken and (os.path.isfile(name) or not os.path.exists(name)):
            raise ProgramError(f"{path} is the file of the recordings, or of another option: give another")
        taken.add(name)
        if problem := _problem(path):
            raise cannot_write(path, problem)


def standard_output_kept(paths: Sequence[Path]) -> AbstractContextManager[Any]:
    """While it lasts, what is printed goes to standard error, if standard output is one of the files."""
    return redirect_stdout(sys.stderr) if STANDARD_OUTPUT in paths else nullcontext()


def write(path: Path, text: str) -> None:
    """Write the text in place of what is there. Raises `ProgramError`; what printing raises where it is printed."""
    if path == STANDARD_OUTPUT:
        print(text, end="", flush=True)
        return
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise cannot_write(path, error.strerror) from None


def cannot_write(path: Path, why: str | None) -> ProgramError:
    """The error that tells why a file can't be written."""
    return ProgramError(f"can't write {path}: {why}")


def _problem(path: Path) -> str | None:
    """Why the file can't be written, as far as that can be known; None if it can."""
    needed = os.W_OK
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            return "Is a directory"
    except FileNotFoundError:
        path = Path(os.path.realpath(path)).parent  # There it will be made.
        needed |= os.X_OK
        if not path.is_dir():
            return "No such file or directory"
    except OSError as error:
        return error.strerror
    return None if os.access(path, needed) else "Permission denied"
