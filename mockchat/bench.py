"""Replay recordings against a server started for it: `python -m mockchat bench`, or `make bench`.

Each option goes to the program that has it, or to both; the exit status is the requester's. SEED_ERRORS alters what the
requester reads, not what the server does, so the replay must fail.
"""

import signal
import subprocess
from collections.abc import Sequence

from mockchat.core import arguments, program
from mockchat.core.program import ProgramError
from mockchat.programs import REPLAY, SERVE, environment, running_server
from mockchat.requester import cli as of_requester
from mockchat.server import options as of_server


def main(given: Sequence[str] | None = None) -> int:
    """Run the bench with these arguments (`None`: the process's own). Returns the exit status."""
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
    for option in options:
        shares = ((served, of_server), (replayed, of_requester))
        taking = [share for share, program in shares if not program.parser().parse_known_args(option)[1]]
        if not taking:
            raise ProgramError(f"neither the server nor the requester takes {' '.join(option)}: see their --help")
        for share in taking:
            share += option
    return served, replayed


def _run(given: Sequence[str] | None) -> int:
    parser = arguments.new_parser("Replay recordings against a server started for it; the options are theirs.")
    served, replayed = share(parser.parse_known_args(given)[1])
    signal.signal(signal.SIGINT, lambda number, frame: None)  # Ctrl-C reaches both programs, and they report.
    with running_server([*SERVE, *served], env=environment(), echo=True) as (base_url, _):
        print(flush=True)
        return subprocess.call([*REPLAY, "--base-url", base_url, *replayed])
