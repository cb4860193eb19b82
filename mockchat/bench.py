"""Replay recordings against a server started for it: `python -m mockchat bench`, or `make bench`.

Each option goes to the program that has it, or to both; the exit status is the requester's. Only the requester gets
SEED_ERRORS, so its replay must fail.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mockchat.core import arguments, program
from mockchat.core.program import ProgramError
from mockchat.requester import cli as of_requester
from mockchat.server import options as of_server

SERVE = (sys.executable, "-m", "mockchat", "serve", "--port", "0")
REPLAY = (sys.executable, "-m", "mockchat", "replay")
STOP_TIMEOUT = 30  # seconds


def main(given: Sequence[str] | None = None) -> int:
    return program.run(lambda: _run(given))


def share(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """The server's options and the requester's. Ends the program if an option is wrong, or neither program's."""
    options: list[list[str]] = []
    for argument in given:  # An option is its name and the values behind it.
        if argument.startswith("--") or not options:
            options.append([])
        options[-1].append(argument)
    served: list[str] = []
    replayed: list[str] = []
    known = ((served, of_server.parser()), (replayed, of_requester.parser()))
    for option in options:
        taking = [shared for shared, parser in known if not parser.parse_known_args(option)[1]]
        if not taking:
            raise ProgramError(f"neither the server nor the requester takes {' '.join(option)}: see their --help")
        for shared in taking:
            shared += option
    return served, replayed


def environment(seed: str = "") -> dict[str, str]:
    return {**os.environ, "SEED_ERRORS": seed}


@contextmanager
def running_server(
    command: Sequence[str], *, echo: bool = False, **options: Any
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run a server's command and stop it in the end; yields its base URL and its process.

    `options` go to `Popen`. If the server ends before it serves, this program ends with its exit status.
    """
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8", **options) as process:
        assert process.stdout
        try:
            for line in process.stdout:
                if echo:
                    print(f"[server] {line}", end="", flush=True)
                if found := re.search(r"(?:Serving|Listening at:) (http://[^/ ]+)", line):
                    break
            else:
                raise SystemExit(process.wait(STOP_TIMEOUT))
            yield f"{found[1]}/v1", process
        finally:
            process.terminate()
            process.wait(STOP_TIMEOUT)


def _run(given: Sequence[str] | None) -> int:
    parser = arguments.new_parser("Replay recordings against a server of its own. Options: those of serve and replay.")
    served, replayed = share(parser.parse_known_args(given)[1])
    signal.signal(signal.SIGINT, lambda number, frame: None)  # Ctrl-C reaches both programs, and they report.
    with running_server([*SERVE, *served], env=environment(), echo=True) as (base_url, _):
        print(flush=True)
        return subprocess.call([*REPLAY, "--base-url", base_url, *replayed])
