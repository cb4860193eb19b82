"""The requester's command line: what its options are called, what they may be, what they are by default."""

import os
import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path

from mockchat.core import arguments
from mockchat.core.arguments import option
from mockchat.requester import plot
from mockchat.requester.plan import ATTEMPT_TIMEOUT


def parse(given: Sequence[str] | None) -> Namespace:
    """The options in these arguments (`None`: the process's own). Ends the program where they are wrong."""
    options = arguments.parse(parser(), given)
    options.shuffle = options.shuffle or options.random_seed is not None
    return options


def parser() -> ArgumentParser:
    """What reads the options."""
    parser = arguments.new_parser("Ask for every recorded reply and verify every answer.")
    arguments.add_recordings(parser)
    parser.add_argument("--ignore", **arguments.IGNORE)
    _add_server(parser)
    _add_load(parser)
    _add_report(parser)
    return parser


def _add_server(parser: ArgumentParser) -> None:
    """Whom to ask, and what every request says."""
    add = parser.add_argument_group("the server").add_argument
    base_url, key = "http://127.0.0.1:8000/v1", os.environ.get("OPENAI_API_KEY") or None
    add("--base-url", **option(arguments.base_url, "URL", "(default %(default)s)", default=base_url))
    add("--model", **option(str, "NAME", "the model to ask for (default: none is named)"))
    add("--api-key", **option(arguments.api_key, "KEY", "sent as bearer token (default: OPENAI_API_KEY)", default=key))
    add("--header", **option(_header, "'K: V'", "send this header; repeatable", action="append", default=[]))


def _add_load(parser: ArgumentParser) -> None:
    """How much to ask at a time, for how long, and what to do about failures: the fields of `Load`."""
    add = parser.add_argument_group("the load (default: everything once, in order, at full speed)").add_argument
    count, seconds = arguments.positive_whole_number, arguments.positive_number
    add("--concurrency", **option(count, "N", "in flight (default: CPUs)", default=os.cpu_count() or 1))
    add("--rate", **option(arguments.positive_number, "R", "requests a second, each due at its time"))
    add("--duration", **option(seconds, "S", "go round and round for S seconds"))
    add("--limit", **option(count, "N", "only the first N requests"))
    add("--shuffle", action="store_true", help="in random order")
    add("--random-seed", **option(arguments.random_seed, "N", "shuffle, and the same way again"))
    add("--stream", action="store_true", help="ask for streams, and time their tokens")
    add("--timeout", **option(seconds, "S", "of an attempt (default %(default)g s)", default=ATTEMPT_TIMEOUT))
    add("--max-answer-mb", **arguments.MAX_ANSWER_MB)
    retries = "try again so often, as OpenAI's SDKs do (default 0)"
    add("--retries", **option(arguments.whole_number, "N", retries, default=0))
    add("--processes", **option(count, "N", "share all this among N processes (default 1)", default=1))
    add("--keep-going", action="store_true", help="count failures instead of stopping at the first")


def _add_report(parser: ArgumentParser) -> None:
    """What to print and which files to write."""
    add = parser.add_argument_group("the report").add_argument
    add("--quiet", action="store_true", help="print the verdict alone, and the first failure")
    add("--json", **option(Path, "FILE", "write the results as JSON; - is standard output"))
    add("--failures", **option(Path, "FILE", "write all failures, a JSON line each; - is standard output"))
    add("--plot", **option(_picture, "FILE", "draw the latencies (.png, .svg or .pdf)"))


def _header(value: str) -> tuple[str, str]:
    name, colon, content = (part.strip() for part in value.partition(":"))
    if colon and re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) and content.isprintable():
        return name, content
    raise ArgumentTypeError(f"{value!r} is no header: give one like 'X-Team: search'")


def _picture(value: str) -> Path:
    path = Path(value)
    if path.suffix.lower() in plot.SUFFIXES:
        return path
    raise ArgumentTypeError(f"{value!r} must end in one of {', '.join(plot.SUFFIXES)}")
