"""The real programs as processes, for the whole-program tests."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Protocol

from mockchat import bench
from mockchat.bench import STOP_TIMEOUT

__all__ = ["STOP_TIMEOUT", "gunicorn", "running_server", "wait_for_workers"]

ROOT = Path(__file__).parents[2]
SERVER = ROOT / "server.py"
REQUESTER = ROOT / "requester.py"
# Variables that change what the programs do, or what make does: `make test ARGS=...` hands its own on.
CHANGING = {"SEED_ERRORS", "OPENAI_API_KEY", "OPENAI_BASE_URL", "MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL"}
CHANGING |= {"PYTHON", "EXTRAS", "PORT", "DATA", "CONCURRENCY", "PROCESSES", "WORKERS", "ARGS"}


class Call(Protocol):
    """Calls a program's function in this process, as if it were started: see the fixture `call`."""

    def __call__(self, program: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """The exit status and what was printed, with `changes` in the environment."""


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without what changes the programs' behaviour, and with `changes`."""
    kept = {name: value for name, value in os.environ.items() if name not in CHANGING}
    return kept | changes


def run_requester(
    *arguments: str, env: Mapping[str, str] | None = None, program: Path = REQUESTER
) -> subprocess.CompletedProcess[str]:
    """Run the requester to its end and give what it printed."""
    command: Sequence[str] = [sys.executable, str(program), *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, encoding="utf-8", timeout=300, check=False)


@contextmanager
def running_server(
    *arguments: str,
    workers: int = 0,
    more: Sequence[str] = (),
    program: Sequence[str] = bench.SERVE,
    **options: Any,
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run a server with these arguments; with `workers` it is gunicorn, with `more` of its own options."""
    command = [*gunicorn(arguments, workers), *more] if workers else [*program, *arguments]
    with bench.running_server(command, **options) as (base_url, process):
        if workers:
            wait_for_workers(base_url, workers)
        yield base_url, process


def gunicorn(arguments: Sequence[str], workers: int) -> list[str]:
    """The gunicorn command that serves with these options of the server."""
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
    command = [sys.executable, "-m", "gunicorn", f"mockchat.server.workers:create_app({options})"]
    command += ["--worker-class", "mockchat.server.workers.Worker", "--preload", "--workers", str(workers)]
    return [*command, "--bind", "127.0.0.1:0", "--no-control-socket", "--error-logfile", "/dev/stdout"]


def wait_for_workers(base_url: str, count: int) -> None:
    """Wait until each worker has answered; the beginning of a request id identifies its worker.

    gunicorn forwards no signal to a worker that is still starting, and kills it after half a minute.
    """
    address = base_url.split("/")[2]
    answered: set[str] = set()
    end = time.monotonic() + STOP_TIMEOUT
    while len(answered) < count and time.monotonic() < end:
        with closing(HTTPConnection(address, timeout=STOP_TIMEOUT)) as connection:
            connection.request("GET", "/")
            answered.add(connection.getresponse().headers["x-request-id"][:-8])
