"""The real programs as processes: what the whole-program tests, the seed check and the bench start."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
SERVER = ROOT / "server.py"
REQUESTER = ROOT / "requester.py"
STOP_TIMEOUT = 30  # seconds


class ServerFailed(Exception):
    """The server ended before it served; `status` is its exit status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the server ended with exit status {status}")
        self.status = status


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without what changes the programs' behaviour, and with `changes`."""
    kept = {name: value for name, value in os.environ.items() if name not in ("SEED_ERRORS", "OPENAI_API_KEY")}
    return kept | changes


@contextmanager
def running_server(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    echo: bool = False,
    preexec_fn: Callable[[], None] | None = None,
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server on a free port: gives its base URL and its process, and stops it in the end."""
    command = [sys.executable, str(SERVER), "--port", "0", *arguments]
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, text=True, encoding="utf-8", preexec_fn=preexec_fn
    ) as process:
        assert process.stdout
        try:
            for line in process.stdout:
                if echo:
                    print(f"[server] {line}", end="", flush=True)
                if line.startswith("Serving "):
                    break
            else:
                raise ServerFailed(process.wait(STOP_TIMEOUT))
            yield line.split()[1], process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(STOP_TIMEOUT)


def run_requester(
    *arguments: str, env: Mapping[str, str] | None = None, program: Path = REQUESTER
) -> subprocess.CompletedProcess[str]:
    """Run the requester to its end and give what it printed."""
    command: Sequence[str] = [sys.executable, str(program), *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, encoding="utf-8", timeout=300, check=False)
