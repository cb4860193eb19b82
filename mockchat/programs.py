"""The server and the requester as processes, for the commands that need both."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from typing import Any

SERVE, REPLAY = ("-m", "mockchat", "serve"), ("-m", "mockchat", "replay")
STOP_TIMEOUT = 30  # seconds


def environment(seed: str = "") -> dict[str, str]:
    """This process's environment with this value of SEED_ERRORS."""
    return {**os.environ, "SEED_ERRORS": seed}


@contextmanager
def running_server(
    *arguments: str,
    workers: int = 0,
    more: Sequence[str] = (),
    echo: bool = False,
    program: Sequence[str] = SERVE,
    **options: Any,
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run a server on a free port and stop it in the end; yields its base URL and its process.

    With `workers` it is gunicorn, with `more` of its own options. `options` go to `Popen`. If the server ends before it
    serves, this program ends with its exit status.
    """
    single = [sys.executable, *program, "--port", "0", *arguments]
    command = [*gunicorn(arguments, workers), *more] if workers else single
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
            if workers:
                wait_for_workers(found[1], workers)
            yield f"{found[1]}/v1", process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(STOP_TIMEOUT)


def by_option(arguments: Iterable[str]) -> list[list[str]]:
    """The arguments option by option: each is its name and the values behind it."""
    options: list[list[str]] = []
    for argument in arguments:
        if argument.startswith("--") or not options:
            options.append([])
        options[-1].append(argument)
    return options


def gunicorn(arguments: Sequence[str], workers: int) -> list[str]:
    """The gunicorn command that serves with these options of the server."""
    keywords: dict[str, list[str]] = {}
    for option, *values in by_option(arguments):
        name, _, value = option[2:].partition("=")
        keywords.setdefault(name.replace("-", "_"), []).extend([value] if value else values)
    options = ", ".join(f"{name}={values or True}" for name, values in keywords.items())
    command = [sys.executable, "-m", "gunicorn", f"mockchat.server:create_app({options})"]
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
