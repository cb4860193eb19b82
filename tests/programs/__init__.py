"""The real programs as processes: what the whole-program tests, the seed check and the bench start."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).parents[2]
SERVER = ROOT / "server.py"
REQUESTER = ROOT / "requester.py"
STOP_TIMEOUT = 30  # seconds
# Variables that change what the programs do, or what make does: `make test ARGS=...` hands its own on.
CHANGING = {"SEED_ERRORS", "OPENAI_API_KEY", "OPENAI_BASE_URL", "MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL"}
CHANGING |= {"PYTHON", "EXTRAS", "PORT", "DATA", "CONCURRENCY", "PROCESSES", "WORKERS", "ARGS"}


class Call(Protocol):
    """Calls a program's function in this process, as if it were started: see the fixture `call`."""

    def __call__(self, program: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """The exit status and what was printed, with `changes` in the environment."""


class ServerFailed(Exception):
    """The server ended before it served; `status` is its exit status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the server ended with exit status {status}")
        self.status = status


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without what changes the programs' behaviour, and with `changes`."""
    kept = {name: value for name, value in os.environ.items() if name not in CHANGING}
    return kept | changes


def gunicorn(arguments: Sequence[str], workers: int) -> list[str]:
    """The command that serves with these options of server.py in several processes."""
    given: dict[str, list[str]] = {}
    values: list[str] = []
    for argument in arguments:
        if argument.startswith("--"):
            name, _, value = argument[2:].partition("=")
            values = given.setdefault(name.replace("-", "_"), [])
            values += [value] if value else []
        else:
            values.append(argument)
    options = ", ".join(f"{name}={values or True}" for name, values in given.items())
    command = [sys.executable, "-m", "gunicorn", f"mockchat.server:create_app({options})", "--pythonpath", str(ROOT)]
    command += ["--worker-class", "mockchat.server.workers.Worker", "--preload", "--workers", str(workers)]
    return [*command, "--bind", "127.0.0.1:0", "--no-control-socket", "--error-logfile", "/dev/stdout"]


@contextmanager
def running_server(
    *arguments: str,
    workers: int = 0,
    more: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    echo: bool = False,
    preexec_fn: Callable[[], None] | None = None,
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server on a free port: gives its base URL and its process, and stops it in the end.

    With `workers`, it is gunicorn's master with `more` options of its own.
    """
    single = [sys.executable, str(SERVER), "--port", "0", *arguments]
    command = [*gunicorn(arguments, workers), *more] if workers else single
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, text=True, encoding="utf-8", preexec_fn=preexec_fn
    ) as process:
        assert process.stdout
        try:
            for line in process.stdout:
                if echo:
                    print(f"[server] {line}", end="", flush=True)
                if found := re.search(r"(?:Serving|Listening at:) (http://[^/ ]+)", line):
                    break
            else:
                raise ServerFailed(process.wait(STOP_TIMEOUT))
            if workers:
                wait_for_workers(found[1], workers)
            yield f"{found[1]}/v1", process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(STOP_TIMEOUT)


def wait_for_workers(base_url: str, count: int) -> None:
    """Wait until each worker has answered, told by the first part of its request ids.

    A signal that comes before a worker has begun is lost on it, and gunicorn then kills it after half a minute.
    """
    address = base_url.split("/")[2]
    answered: set[str] = set()
    end = time.monotonic() + STOP_TIMEOUT
    while len(answered) < count and time.monotonic() < end:
        with closing(HTTPConnection(address, timeout=STOP_TIMEOUT)) as connection:
            connection.request("GET", "/")
            answered.add(connection.getresponse().headers["x-request-id"][:-8])


def run_requester(
    *arguments: str, env: Mapping[str, str] | None = None, program: Path = REQUESTER
) -> subprocess.CompletedProcess[str]:
    """Run the requester to its end and give what it printed."""
    command: Sequence[str] = [sys.executable, str(program), *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, encoding="utf-8", timeout=300, check=False)
