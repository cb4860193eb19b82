"""The server and the requester as processes, for the commands that need both."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

SERVE = (sys.executable, "-m", "mockchat", "serve", "--port", "0")
REPLAY = (sys.executable, "-m", "mockchat", "replay")
STOP_TIMEOUT = 30  # seconds


def environment(seed: str = "") -> dict[str, str]:
    """This process's environment with this value of SEED_ERRORS."""
    return {**os.environ, "SEED_ERRORS": seed}


@contextmanager
def running_server(
    command: Sequence[str], *, echo: bool = False, **options: Any
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run a server's command and stop it in the end; yields its base URL and its process.

    `options` go to `Popen`. If the server ends before it serves, this program ends with its exit status.
    """
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8", **options) as process:
        assert process.stdout
        try:
            for line in process.stdout:
                if echo:
                    print(f"[server] {line}", end="", flush=True)
                if found := re.search(r"(?:Serving|Listening at:) (http://[^/ ]+)", line):
                    break
            else:
                raise SystemExit(process.wait(STOP_TIMEOUT))
            yield f"{found[1]}/v1", process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(STOP_TIMEOUT)
