"""Start the requester: python requester.py --help"""

import sys

try:
    from mockchat.requester.cli import main
except ModuleNotFoundError as error:
    print(f"requester.py: {error}: make install, and then .venv/bin/python requester.py", file=sys.stderr)
    sys.exit(2)
except KeyboardInterrupt:
    sys.exit(130)

if __name__ == "__main__":
    sys.exit(main())
