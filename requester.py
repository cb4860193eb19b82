"""Start the requester: python requester.py --help"""

import sys

from mockchat.cli import requester

if __name__ == "__main__":
    sys.exit(requester())
