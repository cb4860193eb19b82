"""All programs by one name: python -m mockchat serve, replay, bench or seed-test, each with its options."""

import sys

from mockchat.starting import load

PROGRAMS = {
    "serve": "mockchat.server.cli",
    "replay": "mockchat.requester.cli",
    "bench": "mockchat.bench",
    "seed-test": "mockchat.seed_test",
}


def main() -> int:
    """Run the program that the first argument names with the other arguments. Returns the exit status."""
    _, *given = sys.argv
    if not given or given[0] not in PROGRAMS:
        print(f"usage: python -m mockchat {'|'.join(PROGRAMS)} [--help]", file=sys.stderr)
        return 2
    name, *arguments = given
    sys.argv[0] = f"mockchat {name}"
    return load(PROGRAMS[name])(arguments)


if __name__ == "__main__":
    sys.exit(main())
