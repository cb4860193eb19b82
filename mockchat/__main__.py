"""Both programs by one name: python -m mockchat serve, or replay, with the options of either."""

import sys
from importlib import import_module

from mockchat.core.program import COULD_NOT_RUN

PROGRAMS = {"serve": "mockchat.server.cli", "replay": "mockchat.requester.cli"}


def main() -> int:
    """Run the program that the first argument names, with the arguments behind it. Returns the exit status."""
    _, *given = sys.argv
    if not given or given[0] not in PROGRAMS:
        print("usage: python -m mockchat serve|replay [--help]", file=sys.stderr)
        return COULD_NOT_RUN
    name, *arguments = given
    sys.argv[0] = f"mockchat {name}"
    status: int = import_module(PROGRAMS[name]).main(arguments)
    return status


if __name__ == "__main__":
    sys.exit(main())
