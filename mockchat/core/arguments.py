"""The command-line arguments that both programs take, and the types of arguments that both use.

A type turns an argument's text into its value, or refuses it with a text that says what to give instead; see
https://docs.python.org/3/library/argparse.html#type.
"""

import math
import re
import shlex
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from typing import Any

from yarl import URL

from mockchat import __version__
from mockchat.core import ignorable, recordings


def option(kind: Callable[[str], Any], metavar: str, told: str, **more: Any) -> dict[str, Any]:
    """What `add_argument` is told of an option with a value: its type, how the value is called, and the help."""
    return {"type": kind, "metavar": metavar, "help": told, **more}


def new_parser(description: str) -> ArgumentParser:
    """A parser with `--version`, whose usage is one line, and which takes no abbreviated options."""
    parser = ArgumentParser(usage="%(prog)s [options] (--help lists them)", description=description, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"mockchat {__version__}")
    return parser


def add_recordings(parser: ArgumentParser) -> None:
    """Add the options that say which recordings to read: `data` and `no_stitch`."""
    default = f"{recordings.DATASETS[0].name} if it is in data/ of a clone, else {recordings.SAMPLE!r}"
    told = f"recordings, or {recordings.SAMPLE!r} for those of the package; repeatable (default: {default})"
    parser.add_argument("--data", **option(recordings.named, "FILE", told, action="append"))
    parser.add_argument("--no-stitch", action="store_true", help="do not join entries with ids like a_0 and a_12")


def parse(parser: ArgumentParser, given: Sequence[str] | None) -> Namespace:
    """The options in these arguments (`None`: the process's own). Ends the program where they are wrong.

    Where a file is given by itself, that tells which option names recordings.
    """
    options, unknown = parser.parse_known_args(given)
    if unknown:
        path = unknown[0]
        hint = "" if path.startswith("-") else f" (for recordings: --data {shlex.quote(path)})"
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    return options


def pattern(value: str) -> str:
    """A regular expression that does not match the empty text."""
    try:
        ignorable.check(value)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None
    return value


def whole_number(value: str, least: int = 0) -> int:
    """A whole number from 0 (or `least`) up, of at most nine digits."""
    if value.isascii() and value.isdigit() and len(value) < 10 and int(value) >= least:
        return int(value)
    raise ArgumentTypeError(f"{value!r} is no whole number of at least {least}")


def positive_whole_number(value: str) -> int:
    """A whole number from 1 up."""
    return whole_number(value, 1)


IGNORE = option(
    pattern,
    "REGEX",
    "leave out what it matches, in what is sent and what is recorded, before they are compared; repeatable",
    action="append",
    default=[],
)


def random_seed(value: str) -> int:
    """A whole number, which may be negative."""
    if re.fullmatch("-?[0-9]{1,18}", value):
        return int(value)
    raise ArgumentTypeError(f"{value!r} is no whole number")


def number(value: str) -> float:
    """A number from 0 up."""
    parsed = _float(value)
    if 0 <= parsed < 1e9:
        return parsed
    raise ArgumentTypeError(f"{value!r} is no number of at least 0")


def positive_number(value: str) -> float:
    """A number above 0."""
    parsed = _float(value)
    if 0 < parsed < 1e9:
        return parsed
    raise ArgumentTypeError(f"{value!r} is no number above 0")


def api_key(value: str) -> str:
    """A key that can stand in an Authorization header."""
    if value and value.isprintable():
        return value
    raise ArgumentTypeError("it is empty or has characters that no header can carry")


def base_url(value: str) -> str:
    """The URL of an API, to which `/chat/completions` is added."""
    try:
        url = URL(value)
        usable = url.scheme in ("http", "https") and url.host and not (url.query_string or url.fragment or " " in value)
    except ValueError:
        usable = False
    if usable:
        return value
    raise ArgumentTypeError(f"{value!r} is no base URL: give one like http://127.0.0.1:8000/v1")


def _float(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return math.nan
