"""Start the server: python server.py --help"""

import sys

from mockchat.cli import serve

if __name__ == "__main__":
    sys.exit(serve())
