"""Start the requester: python requester.py --help

Older Pythons can read this file too, and are told what is needed.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036
    told = "requester.py: this is Python " + sys.version.split()[0] + ", and 3.11 or later is needed: "
    sys.stderr.write(told + "try python3.13 requester.py\n")
    sys.exit(2)

try:
    from mockchat.__main__ import load

    main = load("replay")
except ModuleNotFoundError as error:
    sys.stderr.write("requester.py: " + str(error) + ": make install, and then .venv/bin/python requester.py\n")
    sys.exit(2)

if __name__ == "__main__":
    sys.exit(main())
