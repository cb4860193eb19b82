"""Command-line arguments that both programs take, and the types of arguments.

A type turns an argument's text into its value, or refuses it and says what to give instead:
https://docs.python.org/3/library/argparse.html#type
"""

import difflib
import math
import re
import shlex
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from re import _parser  # type: ignore[attr-defined]
from typing import Any

from yarl import URL

from mockchat import __version__
from mockchat.core import matching, recordings

_FEW = 8  # repetitions


def option(kind: Callable[[str], Any], metavar: str, help_text: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "metavar": metavar, "help": help_text, **more}


def new_parser(description: str) -> ArgumentParser:
    parser = ArgumentParser(description=description, usage="%(prog)s [options] (--help lists them)", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"mockchat {__version__}")
    return parser


def add_recordings(parser: ArgumentParser, default: str = "") -> None:
    """Add `--data`, whose help names the default, and `--no-stitch`."""
    default = default or f"{recordings.DATASETS[0].name} if it is in data/ of a clone, else {recordings.SAMPLE!r}"
    about = f"recordings, or {recordings.SAMPLE!r} for those of the package; repeatable (default: {default})"
    parser.add_argument("--data", **option(recordings.named, "FILE", about, action="append"))
    parser.add_argument("--no-stitch", action="store_true", help="do not join entries with ids like a_0 and a_12")


def parse(parser: ArgumentParser, given: Sequence[str] | None) -> Namespace:
    """Parse these arguments, or the process's own for None. Ends the program where they are wrong."""
    options, unknown = parser.parse_known_args(given)
    if unknown:
        name, known = unknown[0].partition("=")[0], re.findall("--[a-z-]+", parser.format_help())
        if not name.startswith("-"):
            hint = f" (for recordings: --data {shlex.quote(unknown[0])})"
        else:
            hint = "".join(f" (did you mean {near}?)" for near in difflib.get_close_matches(name, known, n=1))
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    return options


def pattern(value: str) -> str:
    """A regular expression that does not match the empty text, and can't take for ever."""
    try:
        found = re.compile(value).search("")
    except (re.error, RecursionError, OverflowError) as error:
        raise ArgumentTypeError(f"{value!r} is not a regular expression: {error}") from None
    if found:
        raise ArgumentTypeError(f"{value!r} matches the empty text: give one that matches what is to be left out")
    if _repeats_what_varies(_parser.parse(value)):
        problem = f"{value!r} repeats what varies, which can take for ever"
        raise ArgumentTypeError(f"{problem}: make the outer repetition possessive, (...)++ or (...)*+")
    return value


def _repeats_what_varies(parsed: Any, repeated: bool = False) -> bool:
    """True if a parsed pattern, or a part of one, repeats what varies: repetitions, optional parts, alternatives.

    `re` tries each way to divide a text among the repetitions, and can't be stopped. It does not try again what a
    possessive repetition or an atomic group has matched.
    """
    kind = str(parsed[0]) if isinstance(parsed, tuple) and parsed else ""
    if kind in ("MAX_REPEAT", "MIN_REPEAT"):
        least, most, _ = parsed[1]
        if repeated and least != most:
            return True
        repeated = repeated or most > _FEW
    elif kind == "BRANCH" and repeated:
        return True
    elif kind in ("ATOMIC_GROUP", "POSSESSIVE_REPEAT"):
        repeated = False
    return isinstance(parsed, tuple | list | _parser.SubPattern) and any(
        _repeats_what_varies(each, repeated) for each in parsed
    )


def parameter(value: str) -> str:
    """The name of a parameter that is recorded, and no misspelling of a known one."""
    meant = [] if value in matching.KNOWN else difflib.get_close_matches(value, matching.KNOWN, n=1, cutoff=0.8)
    if value.isidentifier() and matching.is_recorded(value) and not meant:
        return value
    hint = f"did you mean {meant[0]}?" if meant else "give one name like model, tools, temperature"
    raise ArgumentTypeError(f"{value!r} is not a recorded parameter of requests: {hint}")


_IGNORED = "leave out what it matches, in requests and recordings, before messages are compared; repeatable"
IGNORE = option(pattern, "REGEX", _IGNORED, action="append", default=[])
_MATCHED = "compare this parameter of requests too, such as model or tools; repeatable (default: messages alone)"
MATCH = option(parameter, "NAME", _MATCHED, action="append", default=[])


def whole_number(value: str, least: int = 0, most: int = 999_999_999) -> int:
    if re.fullmatch("[0-9]{1,9}", value) and least <= int(value) <= most:
        return int(value)
    raise ArgumentTypeError(f"{value!r} is not a whole number from {least} to {most:,}")


def number(value: str, least: float = 0.0) -> float:
    """A number from `least` up, below a billion."""
    with suppress(ValueError):
        if least <= float(value) < 1e9:
            return float(value)
    raise ArgumentTypeError(f"{value!r} is not a number {'above 0' if least else 'of at least 0'}, below a billion")


positive_whole_number = partial(whole_number, least=1)
positive_number = partial(number, least=math.ulp(0.0))


def api_key(value: str) -> str:
    """A key for an Authorization header, which can't carry spaces around it."""
    key = value.strip(" ")
    if key and key.isprintable():
        return key
    raise ArgumentTypeError("the key is empty, or has characters that no header can carry")


def base_url(value: str) -> str:
    """The URL of an API, to which `/chat/completions` is added."""
    with suppress(ValueError):
        url = URL(value)
        if url.scheme in ("http", "https") and url.host and not (url.query_string or url.fragment or " " in value):
            return value
    raise ArgumentTypeError(f"{value!r} is not a base URL: give one like http://127.0.0.1:8000/v1")


def upstream_url(value: str) -> str:
    """A base URL without a user: only the client's Authorization is forwarded."""
    if URL(base_url(value)).user:
        raise ArgumentTypeError("the URL names a user: leave it out, for the upstream gets the client's Authorization")
    return value
