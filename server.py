"""Start the server: python server.py --help"""

import sys

try:
    from mockchat.server.cli import main
except ModuleNotFoundError as error:
    print(f"server.py: {error}: make install, and then .venv/bin/python server.py", file=sys.stderr)
    sys.exit(2)
except KeyboardInterrupt:
    sys.exit(130)

if __name__ == "__main__":
    sys.exit(main())
