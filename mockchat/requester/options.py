"""The requester's command line: what its options are called, what they may be, what they are by default."""

import os
import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path

from mockchat.core import arguments
from mockchat.requester import plot
from mockchat.requester.plan import ATTEMPT_TIMEOUT


def parse(given: Sequence[str] | None) -> Namespace:
    """The options in these arguments (`None`: the process's own). Ends the program where they are wrong."""
    parser = ArgumentParser(description="Ask for every recorded reply and verify every answer.")
    arguments.add_recordings(parser)
    _add_server(parser)
    _add_load(parser)
    _add_report(parser)
    options = parser.parse_args(given)
    options.shuffle = options.shuffle or options.random_seed is not None
    return options


def _add_server(parser: ArgumentParser) -> None:
    """Whom to ask, and what every request says."""
    server = parser.add_argument_group("the server")
    server.add_argument(
        "--base-url",
        type=arguments.base_url,
        default="http://127.0.0.1:8000/v1",
        metavar="URL",
        help="(default %(default)s)",
    )
    server.add_argument("--model", metavar="NAME", help="the model to ask for (default: none is named)")
    server.add_argument(
        "--api-key",
        type=arguments.api_key,
        default=os.environ.get("OPENAI_API_KEY") or None,
        metavar="KEY",
        help="sent as a bearer token (default: OPENAI_API_KEY)",
    )
    server.add_argument(
        "--header", type=_header, action="append", default=[], metavar="'K: V'", help="send this header; repeatable"
    )


def _add_load(parser: ArgumentParser) -> None:
    """How much to ask at a time, for how long, and what to do about failures: the fields of `Load`."""
    load = parser.add_argument_group("the load (default: everything once, in order, at full speed)")
    load.add_argument(
        "--concurrency",
        type=arguments.positive_whole_number,
        default=os.cpu_count() or 1,
        metavar="N",
        help="in flight (default: CPUs)",
    )
    load.add_argument(
        "--rate", type=arguments.positive_number, metavar="R", help="so many a second, each due at its time"
    )
    load.add_argument("--duration", type=arguments.positive_number, metavar="S", help="round and round for S seconds")
    load.add_argument("--limit", type=arguments.positive_whole_number, metavar="N", help="only the first N requests")
    load.add_argument("--shuffle", action="store_true", help="in random order")
    load.add_argument("--random-seed", type=arguments.random_seed, metavar="N", help="shuffle, and the same way again")
    load.add_argument("--stream", action="store_true", help="ask for streams, and time their tokens")
    load.add_argument(
        "--timeout",
        type=arguments.positive_number,
        default=ATTEMPT_TIMEOUT,
        metavar="S",
        help="of an attempt (default %(default)g s)",
    )
    load.add_argument(
        "--retries",
        type=arguments.whole_number,
        default=0,
        metavar="N",
        help="try again so often, as OpenAI's SDKs do (default 0)",
    )
    load.add_argument(
        "--processes",
        type=arguments.positive_whole_number,
        default=1,
        metavar="N",
        help="share all this among N processes (default 1)",
    )
    load.add_argument("--keep-going", action="store_true", help="count failures instead of stopping at the first")


def _add_report(parser: ArgumentParser) -> None:
    """What to print and which files to write."""
    output = parser.add_argument_group("the report")
    output.add_argument("--quiet", action="store_true", help="print the verdict alone")
    output.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON")
    output.add_argument("--failures", type=Path, metavar="FILE", help="write all failures, a JSON line each")
    output.add_argument("--plot", type=_picture, metavar="FILE", help="draw the latencies (.png, .svg or .pdf)")


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
