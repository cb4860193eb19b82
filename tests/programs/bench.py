"""make bench: replay a dataset against a server started for it; exits with the requester's status.

Every option goes to both programs, but for `--concurrency` and `--processes`, which are the requester's, and
`--workers`, with which gunicorn is the server.
"""

import argparse
import signal
import subprocess
import sys

from tests.programs import REQUESTER, ServerFailed, running_server


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--concurrency")
    parser.add_argument("--processes")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--requester", default=REQUESTER, help="another requester, to see this one fail")
    options, both = parser.parse_known_args()
    own = ["--concurrency", options.concurrency] if options.concurrency else []
    own += ["--processes", options.processes] if options.processes else []
    signal.signal(signal.SIGINT, lambda number, frame: None)  # Ctrl-C reaches both programs, and they tell.
    try:
        with running_server(*both, workers=options.workers, echo=True) as (base_url, _):
            print(flush=True)
            return subprocess.call([sys.executable, str(options.requester), "--base-url", base_url, *own, *both])
    except ServerFailed as error:
        return error.status


if __name__ == "__main__":
    sys.exit(main())
