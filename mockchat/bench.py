"""Replay recordings against a server started for it: `python -m mockchat bench`, or `make bench`.

Each option goes to the program that has it, or to both; the exit status is the requester's. SEED_ERRORS alters what the
requester reads, not what the server does, so the replay must fail.
"""

import signal
import subprocess
import sys
from collections.abc import Sequence

from mockchat.core import arguments, program
from mockchat.core.program import ProgramError
from mockchat.programs import REPLAY, by_option, environment, running_server
from mockchat.requester import options as of_requester
from mockchat.server import options as of_server


def main(given: Sequence[str] | None = None) -> int:
    """Run the bench with these arguments (`None`: the process's own). Returns the exit status."""
    return program.run(lambda: _run(given))


def share(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """The server's options and the requester's. Ends the program if an option is wrong, or neither program's."""
    served: list[str] = []
    replayed: list[str] = []
    for option in by_option(given):
        shares = ((served, of_server), (replayed, of_requester))
        taking = [share for share, program in shares if not program.parser().parse_known_args(option)[1]]
        if not taking:
            raise ProgramError(f"neither the server nor the requester takes {' '.join(option)}: see their --help")
        for share in taking:
            share += option
    return served, replayed


def _run(given: Sequence[str] | None) -> int:
    parser = arguments.new_parser("Replay recordings against a server started for it; other options are theirs.")
    workers = "have gunicorn serve with N processes"
    parser.add_argument("--workers", **arguments.option(arguments.whole_number, "N", workers, default=0))
    chosen, others = parser.parse_known_args(given)
    served, replayed = share(others)
    signal.signal(signal.SIGINT, lambda number, frame: None)  # Ctrl-C reaches both programs, and they report.
    with running_server(*served, workers=chosen.workers, env=environment(), echo=True) as (base_url, _):
        print(flush=True)
        return subprocess.call([sys.executable, *REPLAY, "--base-url", base_url, *replayed])
