"""The requester's options: names, values, defaults."""

import os
import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path

from mockchat.core import arguments
from mockchat.core.arguments import option
from mockchat.requester import plot
from mockchat.requester.plan import ATTEMPT_TIMEOUT

MODEL = "mockchat"  # Some gateways refuse requests without a model.
IN_FLIGHT_AT_A_RATE = 1000


def parse(given: Sequence[str] | None) -> Namespace:
    """Parse the arguments (`None`: the process's own). Ends the program if they are wrong."""
    options = arguments.parse(parser(), given)
    options.concurrency = options.concurrency or (IN_FLIGHT_AT_A_RATE if options.rate else os.cpu_count() or 1)
    options.shuffle = options.shuffle or options.random_seed is not None
    return options


def parser() -> ArgumentParser:
    """The parser of the options."""
    parser = arguments.new_parser("Ask for every recorded reply and verify every answer.")
    arguments.add_recordings(parser)
    parser.add_argument("--ignore", **arguments.IGNORE)
    parser.add_argument("--match", **arguments.MATCH)

    add = parser.add_argument_group("the server").add_argument
    base_url, key = "http://127.0.0.1:8000/v1", os.environ.get("OPENAI_API_KEY") or None
    add("--base-url", **option(arguments.base_url, "URL", "(default %(default)s)", default=base_url))
    add("--model", **option(str, "NAME", "the model to ask for (default %(default)s)", default=MODEL))
    add("--api-key", **option(arguments.api_key, "KEY", "sent as bearer token (default: OPENAI_API_KEY)", default=key))
    add("--header", **option(_header, "'K: V'", "send this header; repeatable", action="append", default=[]))

    add = parser.add_argument_group("the load (default: everything once, in order, at full speed)").add_argument
    count, seconds = arguments.positive_whole_number, arguments.positive_number
    in_flight = f"requests in flight at most (default: CPUs; with --rate {IN_FLIGHT_AT_A_RATE:,})"
    add("--concurrency", **option(count, "N", in_flight))
    add("--rate", **option(arguments.positive_number, "R", "requests a second, each due at its time"))
    add("--duration", **option(seconds, "S", "repeat everything for S seconds"))
    add("--limit", **option(count, "N", "only the first N requests"))
    add("--shuffle", action="store_true", help="in random order")
    add("--random-seed", **option(int, "N", "shuffle, in the same order each time"))
    add("--stream", action="store_true", help="ask for streams, and measure their tokens")
    add("--timeout", **option(seconds, "S", "seconds for each attempt (default %(default)g)", default=ATTEMPT_TIMEOUT))
    add("--retries", **option(arguments.whole_number, "N", "retry a request up to N times (default 0)", default=0))
    add("--processes", **option(count, "N", "share all this among N processes (default 1)", default=1))
    add("--keep-going", action="store_true", help="count failures instead of stopping at the first")

    add = parser.add_argument_group("the report").add_argument
    add("--quiet", action="store_true", help="print only the verdict and the first failure")
    add("--json", **option(Path, "FILE", "write the results as JSON; - is standard output"))
    add("--plot", **option(_picture, "FILE", "draw the latencies (.png, .svg or .pdf)"))
    return parser


def _header(value: str) -> tuple[str, str]:
    name, colon, content = (part.strip() for part in value.partition(":"))
    if colon and re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) and content.isprintable():
        return name, content
    raise ArgumentTypeError(f"{value!r} is not a header: give one like 'X-Team: search'")


def _picture(value: str) -> Path:
    path = Path(value)
    if path.suffix.lower() in plot.SUFFIXES:
        return path
    raise ArgumentTypeError(f"{value!r} must end in one of {', '.join(plot.SUFFIXES)}")
