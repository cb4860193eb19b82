"""make bench: replay a dataset against a server started for it; exits with the requester's status.

Each option goes to the program that has it, or to both; `--workers N` has gunicorn serve. SEED_ERRORS alters what the
requester reads, not what the server does, so that the replay must fail.
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from mockchat.core import program
from mockchat.requester import options as of_requester
from mockchat.server import options as of_server
from tests.programs import REQUESTER, ServerFailed, environment, running_server


def share(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """The options of the server and those of the requester; ends the program where an option is nobody's, or wrong."""
    options: list[list[str]] = []
    for argument in given:  # An option is its name and the values behind it.
        if argument.startswith("--") or not options:
            options.append([])
        options[-1].append(argument)
    shares: tuple[list[str], list[str]] = ([], [])
    for option in options:
        owners = [not parser.parse_known_args(option)[1] for parser in (of_server.parser(), of_requester.parser())]
        if not any(owners):
            sys.exit(f"bench: neither the server nor the requester takes {' '.join(option)}: see their --help")
        for share, owns in zip(shares, owners, strict=True):
            share += option if owns else []
    return shares


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, add_help=False)
    parser.add_argument("--workers", type=int, default=0)
    options, given = parser.parse_known_args()
    served, replayed = share(given)
    signal.signal(signal.SIGINT, lambda number, frame: None)  # Ctrl-C reaches both programs, and they tell.
    if os.environ.get("SEED_ERRORS", "0") not in ("", "0"):
        print(
            "SEED_ERRORS alters what the requester reads, and nothing on the server: the replay must fail", flush=True
        )
    try:
        with running_server(*served, workers=options.workers, env=environment(), echo=True) as (base_url, _):
            print(flush=True)
            return subprocess.call([sys.executable, str(REQUESTER), "--base-url", base_url, *replayed])
    except ServerFailed as error:
        return error.status


if __name__ == "__main__":
    sys.exit(program.run(main))
