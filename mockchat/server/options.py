"""The server's options: names, types, defaults.

Those that shape the answers are keyword arguments too, of `create_app` and `mockchat.testing.serve` (`ttft_ms=50`).
"""

from argparse import ArgumentError, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from numbers import Number
from pathlib import Path
from typing import Any

from mockchat.client import MB
from mockchat.core import arguments
from mockchat.core.arguments import option
from mockchat.core.program import ProgramError
from mockchat.core.text import excerpt
from mockchat.server import simulation, upstream
from mockchat.server.app import SHUTDOWN_TIMEOUT
from mockchat.server.memory import MAX_MEMORY_MB


def parse(given: Sequence[str] | None) -> Namespace:
    return arguments.parse(parser(), given)


def parser() -> ArgumentParser:
    parser = arguments.new_parser("Serve the Chat Completions API from recorded conversations.")
    arguments.add_recordings(parser)
    add = parser.add_argument
    add("--host", type=_host, default="127.0.0.1", help="address to listen on (default %(default)s)")
    port = partial(arguments.whole_number, most=65535)
    add("--port", type=port, default=8000, help="0 picks a free one (default %(default)s)")
    finishing = "finish open requests for up to S seconds after a signal (default %(default)g)"
    add("--shutdown-timeout", **option(arguments.positive_number, "S", finishing, default=SHUTDOWN_TIMEOUT))
    add("--log", action="store_true", help="print a line on stderr for each request")
    _add_limits(parser)
    _add_simulation(parser)
    add = parser.add_argument_group("recording (--upstream and --record need each other)").add_argument
    asked = "base URL of a server to ask for what is not recorded, with the client's Authorization"
    file = "append the upstream's answers to this file, and read it at the start, with --data if that is given"
    waited = "seconds for the upstream's answer to begin, and between its chunks (default %(default)g)"
    add("--upstream", **option(arguments.upstream_url, "URL", asked))
    add("--record", **option(Path, "FILE", file))
    add("--upstream-timeout", **option(arguments.positive_number, "S", waited, default=upstream.TIMEOUT))
    return parser


def _add_limits(parser: ArgumentParser) -> None:
    add, megabytes = parser.add_argument, arguments.positive_whole_number
    add("--max-body-mb", **option(megabytes, "N", "refuse larger requests (default %(default)s)", default=64))
    memory = "memory for unread requests and unsent answers of all clients (default %(default)s)"
    add("--max-memory-mb", **option(megabytes, "N", memory, default=MAX_MEMORY_MB))
    keys = "require this key; repeatable (default: no key is needed)"
    add("--api-key", **option(arguments.api_key, "KEY", keys, action="append", default=[]))
    add("--ignore", **arguments.IGNORE)
    add("--match", **arguments.MATCH)


def _add_simulation(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("delays and faults (default: none)")
    add, number = group.add_argument, arguments.number
    add("--ttft-ms", **option(number, "MS", "time to first token"))
    add("--itl-ms", **option(number, "MS", "inter-token latency"))
    add(
        "--jitter",
        **option(number, "F", "vary both, log-normal; F is the standard deviation divided by the mean"),
    )
    failing = (
        "fail with a status (429, 503, ...), disconnect or stall; HOW is a rate (0.05) or first:N of each "
        f"history; 'header' lets requests name a kind in {simulation.FAULT_HEADER}; repeatable"
    )
    add("--fault", **option(simulation.read_fault, "KIND=HOW", failing, action="append", default=[]))
    add("--random-seed", **option(int, "N", "the same replies, jitter and faults in each run"))


def from_keywords(given: Mapping[str, object], beside: Iterable[str] = ()) -> Namespace:
    """Parse the options that shape the answers, given as keyword arguments; a list repeats an option.

    `beside` names further arguments of the caller. Raises `ProgramError`.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for add in (arguments.add_recordings, _add_limits, _add_simulation):
        add(parser)
    defaults = vars(parser.parse_args([]))
    del defaults["data"]  # Callers have an argument of their own for it.
    line = []
    for name, value in given.items():
        if name not in defaults:
            raise ProgramError(f"there is no option {name!r}: the options are {', '.join([*defaults, *beside])}")
        argument = f"--{name.replace('_', '-')}"
        if isinstance(defaults[name], bool):  # A switch.
            if not isinstance(value, bool):
                raise ProgramError(f"{name}: give True or False, not {excerpt(repr(value))}")
            line += [argument] * value
            continue
        values = value if isinstance(value, list | tuple) else [value]
        if len(values) != 1 and not isinstance(defaults[name], list):
            raise ProgramError(f"{name}: give one value, not {len(values)}")
        if others := [each for each in values if isinstance(each, bool) or not isinstance(each, str | Number)]:
            raise ProgramError(f"{name}: give a text or a number, not {excerpt(repr(others[0]))}")
        line += [f"{argument}={each}" for each in values]
    try:
        return parser.parse_args(line)
    except ArgumentError as error:
        name = (error.argument_name or "").removeprefix("--").replace("-", "_")
        raise ProgramError(f"{name}: {error.message}") from None


def of_route(chosen: Namespace) -> dict[str, Any]:
    """The options as arguments of `route.ChatCompletions`. Raises `ProgramError`."""
    named = ("ttft_ms", "itl_ms", "jitter", "random_seed")
    given = {name: value for name in named if (value := getattr(chosen, name)) is not None}
    return {
        "max_body_size": chosen.max_body_mb * MB,
        "max_memory_mb": chosen.max_memory_mb,
        "api_keys": chosen.api_key,
        "match": chosen.match,
        "simulation": simulation.Simulation(**given, faults=chosen.fault) if given or chosen.fault else None,
    }


def _host(value: str) -> str:
    if value:
        return value
    raise ArgumentTypeError("it is empty, which would mean every address: say 0.0.0.0 if that is meant")
