"""The server's options: what they are called, what they may be, what they are by default.

Those that shape the answers are written down once, for everybody who starts a server: the command line has them as
`--ttft-ms 50`, `create_app` and `mockchat.testing.serve` as `ttft_ms=50`.
"""

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mockchat.core import arguments
from mockchat.core.program import ProgramError
from mockchat.server import simulation, upstream
from mockchat.server.app import SHUTDOWN_TIMEOUT
from mockchat.server.connection import REQUEST_TIMEOUT
from mockchat.server.simulation import FAULT_HEADER, Fault, Simulation


def _fault(value: str) -> Fault:
    try:
        return simulation.read_fault(value)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


# Each as the keywords that describe it to `argparse.ArgumentParser.add_argument`.
_ANSWERS: dict[str, dict[str, Any]] = {
    "max_body_mb": {
        "type": arguments.positive_whole_number,
        "default": 64,
        "metavar": "N",
        "help": "refuse larger requests (default %(default)s)",
    },
    "api_key": {
        "type": arguments.api_key,
        "action": "append",
        "default": [],
        "metavar": "KEY",
        "help": "ask for this key; repeatable (default: any key or none is welcome)",
    },
    "request_timeout": {
        "type": arguments.positive_number,
        "default": REQUEST_TIMEOUT,
        "metavar": "S",
        "help": "for a request to arrive, and for a client to read any of its answer (default %(default)g s)",
    },
}
_SIMULATED: dict[str, dict[str, Any]] = {
    "ttft_ms": {"type": arguments.number, "metavar": "MS", "help": "time to first token"},
    "itl_ms": {"type": arguments.number, "metavar": "MS", "help": "inter-token latency"},
    "jitter": {
        "type": arguments.number,
        "metavar": "F",
        "help": "of both: log-normal, F is the standard deviation over the mean",
    },
    "fault": {
        "type": _fault,
        "action": "append",
        "metavar": "KIND=HOW",
        "help": "fail with a status (429, 503, ...), disconnect or stall; HOW is a rate (0.05) or first:N of each "
        f"history; 'header' lets requests name a kind in {FAULT_HEADER}; repeatable",
    },
    "random_seed": {
        "type": arguments.random_seed,
        "metavar": "N",
        "help": "the same replies, jitter and faults in each run",
    },
}


def parse(given: Sequence[str] | None) -> Namespace:
    """The options in these arguments (`None`: the process's own). Ends the program where they are wrong."""
    parser = ArgumentParser(description="Serve the Chat Completions API from recorded conversations.")
    arguments.add_recordings(parser)
    parser.add_argument("--host", type=_host, default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=_port, default=8000, help="0 picks a free one (default %(default)s)")
    parser.add_argument(
        "--shutdown-timeout",
        type=arguments.positive_number,
        default=SHUTDOWN_TIMEOUT,
        metavar="S",
        help="for what has begun to be finished after a signal (default %(default)g s)",
    )
    simulated = parser.add_argument_group("what is simulated (default: nothing; every answer at once, and right)")
    for group, described in ((parser, _ANSWERS), (simulated, _SIMULATED)):
        for name, description in described.items():
            group.add_argument(f"--{name.replace('_', '-')}", **description)
    recording = parser.add_argument_group("recording (both are needed)")
    recording.add_argument(
        "--upstream",
        type=arguments.base_url,
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
        type=arguments.positive_number,
        default=upstream.TIMEOUT,
        metavar="S",
        help="for an answer to begin, and between its parts (default %(default)g s)",
    )
    return parser.parse_args(given)


def from_keywords(given: Mapping[str, object]) -> Namespace:
    """The options that shape the answers, given as keyword arguments: a value, or a list of those that are repeatable.

    Raises `ProgramError`.
    """
    described = _ANSWERS | _SIMULATED
    chosen = Namespace(**{name: description.get("default") for name, description in described.items()})
    for name, value in given.items():
        if name not in described:
            raise ProgramError(f"there is no option {name!r}: the options are {', '.join(described)}")
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


def of_route(chosen: Namespace) -> dict[str, Any]:
    """The arguments of `route.ChatCompletions` that follow from them. Raises `ProgramError`."""
    asked = {name: getattr(chosen, name) for name in _SIMULATED if getattr(chosen, name) is not None}
    if "fault" in asked:
        asked["faults"] = asked.pop("fault")
    try:
        simulated = Simulation(**asked) if asked else None
    except ValueError as error:
        raise ProgramError(str(error)) from None
    return {"max_body_size": chosen.max_body_mb * 1024 * 1024, "api_keys": chosen.api_key, "simulation": simulated}


def _port(value: str) -> int:
    if value.isascii() and value.isdigit() and len(value) < 6 and int(value) < 65536:
        return int(value)
    raise ArgumentTypeError(f"{value!r} is no port: give a number from 0 to 65535")


def _host(value: str) -> str:
    if value:
        return value
    raise ArgumentTypeError("it is empty, which would mean every address: say 0.0.0.0 if that is meant")
