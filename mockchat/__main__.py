"""Both programs by one name: python -m mockchat serve, or replay, with the options of either."""

import sys

from mockchat.starting import load

PROGRAMS = {"serve": "mockchat.server.cli", "replay": "mockchat.requester.cli"}


def main() -> int:
    """Run the program that the first argument names, with the arguments behind it. Returns the exit status."""
    _, *given = sys.argv
    if not given or given[0] not in PROGRAMS:
        print("usage: python -m mockchat serve|replay [--help]", file=sys.stderr)
        return 2
    name, *arguments = given
    sys.argv[0] = f"mockchat {name}"
    return load(PROGRAMS[name])(arguments)


if __name__ == "__main__":
    sys.exit(main())
