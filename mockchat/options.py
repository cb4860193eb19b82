"""The options of both programs, and of a worker: what they are called, what they may be, what they are by default."""

import argparse
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from yarl import URL

from mockchat.core import recordings
from mockchat.requester import plot
from mockchat.requester.run import TIMEOUT
from mockchat.server import upstream
from mockchat.server.connection import REQUEST_TIMEOUT, SHUTDOWN_TIMEOUT
from mockchat.server.simulation import FAULT_HEADER, Simulation


class CommandError(Exception):
    """The command can't run; the text is one line that says why and what to do."""


def of_server(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Those of server.py; `None` stands for the command line's arguments. Ends the program where they are wrong."""
    description = "Serve the Chat Completions API from recorded conversations."
    parser = _with_recordings(argparse.ArgumentParser(description=description))
    parser.add_argument("--host", type=_host, default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=_port, default=8000, help="0 picks a free one (default %(default)s)")
    parser.add_argument(
        "--shutdown-timeout",
        type=_positive_number,
        default=SHUTDOWN_TIMEOUT,
        metavar="S",
        help="for what has begun to be finished after a signal (default %(default)g s)",
    )
    _add_answering(parser)
    recording = parser.add_argument_group("recording (both are needed)")
    recording.add_argument(
        "--upstream",
        type=_base_url,
        metavar="URL",
        help="base URL of a server to ask for what is not recorded, with the client's Authorization",
    )
    recording.add_argument(
        "--record",
        type=Path,
        metavar="FILE",
        help="append its answers to this file, which is read beside --data, or alone where there is none",
    )
    recording.add_argument(
        "--upstream-timeout",
        type=_positive_number,
        default=upstream.TIMEOUT,
        metavar="S",
        help="for an answer to begin, and between its parts (default %(default)g s)",
    )
    return parser.parse_args(arguments)


class _GivenParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise CommandError(message)


def of_answering(given: Mapping[str, object]) -> argparse.Namespace:
    """Those of server.py that are not about its socket, named as there with `_` for `-`: a value, several, or a flag.

    Raises `CommandError`.
    """
    parser = _with_recordings(_GivenParser(allow_abbrev=False, add_help=False))
    _add_answering(parser)
    arguments = []
    for name, value in given.items():
        for one in value if isinstance(value, list | tuple) else [value]:
            option = f"--{name.replace('_', '-')}"
            arguments += [] if one is False else [option] if one is True else [f"{option}={one}"]
    return parser.parse_args(arguments)


def of_route(chosen: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `route.ChatCompletions` that follow from them. Raises `CommandError`."""
    names = ("ttft_ms", "itl_ms", "jitter", "faults", "random_seed")
    asked = {name: getattr(chosen, name) for name in names if getattr(chosen, name) is not None}
    try:
        simulation = Simulation(**asked) if asked else None
    except ValueError as error:
        raise CommandError(str(error)) from None
    max_body_size = chosen.max_body_mb * 1024 * 1024
    return {"max_body_size": max_body_size, "api_keys": chosen.api_key, "simulation": simulation}


def _add_answering(parser: argparse.ArgumentParser) -> None:
    """Add the server's options that are not about its socket or its recordings."""
    parser.add_argument(
        "--max-body-mb", type=_positive, default=64, metavar="N", help="refuse larger requests (default %(default)s)"
    )
    parser.add_argument(
        "--api-key",
        type=_api_key,
        action="append",
        default=[],
        metavar="KEY",
        help="ask for this key; repeatable (default: any key or none is welcome)",
    )
    parser.add_argument(
        "--request-timeout",
        type=_positive_number,
        default=REQUEST_TIMEOUT,
        metavar="S",
        help="for a request to arrive, and for a client to read any of its answer (default %(default)g s)",
    )
    simulated = parser.add_argument_group("what is simulated (default: nothing; every answer at once, and right)")
    simulated.add_argument("--ttft-ms", type=_number, metavar="MS", help="time to first token")
    simulated.add_argument("--itl-ms", type=_number, metavar="MS", help="inter-token latency")
    simulated.add_argument(
        "--jitter",
        type=_number,
        metavar="F",
        help="of both: log-normal, F is the standard deviation over the mean",
    )
    simulated.add_argument(
        "--fault",
        action="append",
        dest="faults",
        metavar="KIND=HOW",
        help="fail with a status (429, 503, ...), disconnect or stall; HOW is a rate (0.05) or first:N of each "
        f"history; 'header' lets requests name a kind in {FAULT_HEADER}; repeatable",
    )
    simulated.add_argument(
        "--random-seed", type=_seed, metavar="N", help="the same replies, jitter and faults in each run"
    )


def of_requester(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Those of requester.py, in the same way."""
    description = "Ask for every recorded reply and verify every answer."
    parser = _with_recordings(argparse.ArgumentParser(description=description))
    server = parser.add_argument_group("the server")
    server.add_argument(
        "--base-url", type=_base_url, default="http://127.0.0.1:8000/v1", metavar="URL", help="(default %(default)s)"
    )
    server.add_argument("--model", metavar="NAME", help="the model to ask for (default: none is named)")
    server.add_argument(
        "--api-key",
        type=_api_key,
        default=os.environ.get("OPENAI_API_KEY") or None,
        metavar="KEY",
        help="sent as a bearer token (default: OPENAI_API_KEY)",
    )
    server.add_argument(
        "--header", type=_header, action="append", default=[], metavar="'K: V'", help="send this header; repeatable"
    )
    load = parser.add_argument_group("the load (default: everything once, in order, at full speed)")
    load.add_argument(
        "--concurrency", type=_positive, default=os.cpu_count() or 1, metavar="N", help="in flight (default: CPUs)"
    )
    load.add_argument("--rate", type=_positive_number, metavar="R", help="requests a second, each due at its time")
    load.add_argument("--duration", type=_positive_number, metavar="S", help="go round and round for S seconds")
    load.add_argument("--limit", type=_positive, metavar="N", help="only the first N requests")
    load.add_argument("--shuffle", action="store_true", help="in random order")
    load.add_argument("--random-seed", type=_seed, metavar="N", help="shuffle, and the same way again")
    load.add_argument("--stream", action="store_true", help="ask for streams, and time their tokens")
    load.add_argument(
        "--timeout", type=_positive_number, default=TIMEOUT, metavar="S", help="of an attempt (default %(default)g s)"
    )
    load.add_argument(
        "--retries", type=_whole, default=0, metavar="N", help="try again so often, as OpenAI's SDKs do (default 0)"
    )
    load.add_argument(
        "--processes", type=_positive, default=1, metavar="N", help="share all this among N processes (default 1)"
    )
    load.add_argument("--keep-going", action="store_true", help="count failures instead of stopping at the first")
    output = parser.add_argument_group("the report")
    output.add_argument("--quiet", action="store_true", help="print the verdict alone")
    output.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON")
    output.add_argument("--failures", type=Path, metavar="FILE", help="write all failures, a JSON line each")
    output.add_argument("--plot", type=_picture, metavar="FILE", help="draw the latencies (.png, .svg or .pdf)")
    return parser.parse_args(arguments)


def _with_recordings(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument(
        "--data",
        type=Path,
        action="append",
        metavar="FILE",
        help=f"recordings; repeatable (default: data/{recordings.DATASETS[0].name}, else the sample, in a clone)",
    )
    parser.add_argument("--no-stitch", action="store_true", help="do not join entries with ids like a_0 and a_12")
    return parser


def _refuse(message: str) -> NoReturn:
    raise argparse.ArgumentTypeError(message)


def _port(value: str) -> int:
    if value.isascii() and value.isdigit() and len(value) < 6 and int(value) < 65536:
        return int(value)
    _refuse(f"{value!r} is no port: give a number from 0 to 65535")


def _whole(value: str, least: int = 0) -> int:
    if value.isascii() and value.isdigit() and len(value) < 10 and int(value) >= least:
        return int(value)
    _refuse(f"{value!r} is no whole number of at least {least}")


def _positive(value: str) -> int:
    return _whole(value, 1)


def _seed(value: str) -> int:
    return int(value) if re.fullmatch("-?[0-9]{1,18}", value) else _refuse(f"{value!r} is no whole number")


def _float(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return math.nan


def _number(value: str) -> float:
    number = _float(value)
    return number if 0 <= number < 1e9 else _refuse(f"{value!r} is no number of at least 0")


def _positive_number(value: str) -> float:
    number = _float(value)
    return number if 0 < number < 1e9 else _refuse(f"{value!r} is no number above 0")


def _header(value: str) -> tuple[str, str]:
    name, colon, content = (part.strip() for part in value.partition(":"))
    if colon and re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) and content.isprintable():
        return name, content
    _refuse(f"{value!r} is no header: give one like 'X-Team: search'")


def _picture(value: str) -> Path:
    path = Path(value)
    if path.suffix.lower() in plot.SUFFIXES:
        return path
    _refuse(f"{value!r} must end in one of {', '.join(plot.SUFFIXES)}")


def _host(value: str) -> str:
    return value or _refuse("it is empty, which would mean every address: say 0.0.0.0 if that is meant")


def _api_key(value: str) -> str:
    return value if value and value.isprintable() else _refuse("it is empty or has characters that no header can carry")


def _base_url(value: str) -> str:
    try:
        url = URL(value)
        usable = url.scheme in ("http", "https") and url.host and not (url.query_string or url.fragment or " " in value)
    except ValueError:
        usable = False
    return value if usable else _refuse(f"{value!r} is no base URL: give one like http://127.0.0.1:8000/v1")
