"""The server's options: what they are called, what they may be, what they are by default.

Those that shape the answers are written down once, for everybody who starts a server: the command line has them as
`--ttft-ms 50`, `create_app` and `mockchat.testing.serve` as `ttft_ms=50`.
"""

import difflib
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mockchat.core import arguments
from mockchat.core.arguments import option
from mockchat.core.coding import MB
from mockchat.core.program import ProgramError
from mockchat.server import simulation, upstream
from mockchat.server.app import SHUTDOWN_TIMEOUT
from mockchat.server.memory import MAX_MEMORY_MB
from mockchat.server.simulation import FAULT_HEADER, Fault, Simulation
from mockchat.server.states import REQUEST_TIMEOUT


def _fault(value: str) -> Fault:
    try:
        return simulation.read_fault(value)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


# Those that shape the answers, each as what `add_argument` is told of it.
_ANSWERS = {
    "max_body_mb": option(
        arguments.positive_whole_number, "N", "refuse larger requests (default %(default)s)", default=64
    ),
    "max_memory_mb": option(
        arguments.positive_whole_number,
        "N",
        "of what clients send and do not read, all together (default %(default)s)",
        default=MAX_MEMORY_MB,
    ),
    "api_key": option(
        arguments.api_key,
        "KEY",
        "ask for this key; repeatable (default: none is needed)",
        action="append",
        default=[],
    ),
    "ignore": arguments.IGNORE,
    "request_timeout": option(
        arguments.positive_number,
        "S",
        "for a request to arrive, and for a client to read any of its answer (default %(default)g s)",
        default=REQUEST_TIMEOUT,
    ),
}
_SIMULATED = {
    "ttft_ms": option(arguments.number, "MS", "time to first token"),
    "itl_ms": option(arguments.number, "MS", "inter-token latency"),
    "jitter": option(arguments.number, "F", "of both: log-normal, F is the standard deviation over the mean"),
    "fault": option(
        _fault,
        "KIND=HOW",
        "fail with a status (429, 503, ...), disconnect or stall; HOW is a rate (0.05) or first:N of each "
        f"history; 'header' lets requests name a kind in {FAULT_HEADER}; repeatable",
        action="append",
    ),
    "random_seed": option(arguments.random_seed, "N", "the same replies, jitter and faults in each run"),
}


def parse(given: Sequence[str] | None) -> Namespace:
    """The options in these arguments (`None`: the process's own). Ends the program where they are wrong."""
    return arguments.parse(parser(), given)


def parser() -> ArgumentParser:
    """What reads the options."""
    parser = ArgumentParser(description="Serve the Chat Completions API from recorded conversations.")
    arguments.add_version(parser)
    arguments.add_recordings(parser)
    parser.add_argument("--host", type=_host, default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=_port, default=8000, help="0 picks a free one (default %(default)s)")
    finishing = "for what has begun to be finished after a signal (default %(default)g s)"
    parser.add_argument(
        "--shutdown-timeout", **option(arguments.positive_number, "S", finishing, default=SHUTDOWN_TIMEOUT)
    )
    parser.add_argument("--log", action="store_true", help="print a line on stderr for each request")
    simulated = parser.add_argument_group("what is simulated (default: nothing; every answer at once, and right)")
    for group, described in ((parser, _ANSWERS), (simulated, _SIMULATED)):
        for name, description in described.items():
            group.add_argument(f"--{name.replace('_', '-')}", **description)
    recording = parser.add_argument_group("recording (both are needed)")
    asked = "base URL of a server to ask for what is not recorded, with the client's Authorization"
    file = "append its answers to this file, which is read beside --data, or alone where there is none"
    waited = "for an answer to begin, and between its parts (default %(default)g s)"
    recording.add_argument("--upstream", **option(arguments.base_url, "URL", asked))
    recording.add_argument("--record", **option(Path, "FILE", file))
    recording.add_argument(
        "--upstream-timeout", **option(arguments.positive_number, "S", waited, default=upstream.TIMEOUT)
    )
    recording.add_argument("--max-answer-mb", **arguments.MAX_ANSWER_MB)
    return parser


def from_keywords(given: Mapping[str, object], beside: Sequence[str] = ()) -> Namespace:
    """The options that shape the answers, given as keyword arguments: a value, or a list of those that are repeatable.

    `beside` names what the caller takes beside them. Raises `ProgramError`.
    """
    described = _ANSWERS | _SIMULATED
    chosen = Namespace(**{name: description.get("default") for name, description in described.items()})
    for name, value in given.items():
        if name not in described:
            raise ProgramError(_unknown(name, [*described, *beside]))
        values = value if isinstance(value, list | tuple) else [value]
        try:
            checked = [described[name]["type"](str(one)) for one in values]
        except ArgumentTypeError as error:
            raise ProgramError(f"{name}: {error}") from None
        repeatable = described[name].get("action") == "append"
        if not repeatable and len(checked) != 1:
            raise ProgramError(f"{name}: give one value, not {len(checked)}")
        setattr(chosen, name, checked if repeatable else checked[0])
    return chosen


def _unknown(name: str, known: Sequence[str]) -> str:
    all_of_them = f"he options are {', '.join(known)}"
    nearest = difflib.get_close_matches(name, known, 1)
    told = f"did you mean {nearest[0]!r}? T{all_of_them}" if nearest else f"t{all_of_them}"
    return f"there is no option {name!r}: {told}"


def of_route(chosen: Namespace) -> dict[str, Any]:
    """The arguments of `route.ChatCompletions` that follow from them. Raises `ProgramError`."""
    asked = {name: getattr(chosen, name) for name in _SIMULATED if getattr(chosen, name) is not None}
    if "fault" in asked:
        asked["faults"] = asked.pop("fault")
    try:
        simulated = Simulation(**asked) if asked else None
    except ValueError as error:
        raise ProgramError(str(error)) from None
    return {
        "max_body_size": chosen.max_body_mb * MB,
        "max_memory_mb": chosen.max_memory_mb,
        "api_keys": chosen.api_key,
        "simulation": simulated,
    }


def _port(value: str) -> int:
    if value.isascii() and value.isdigit() and len(value) < 6 and int(value) < 65536:
        return int(value)
    raise ArgumentTypeError(f"{value!r} is no port: give a number from 0 to 65535")


def _host(value: str) -> str:
    if value:
        return value
    raise ArgumentTypeError("it is empty, which would mean every address: say 0.0.0.0 if that is meant")
