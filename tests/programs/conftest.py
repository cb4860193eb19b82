"""The programs without processes of their own."""

import gc
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Timer

import pytest

from mockchat.core.program import STOP_SIGNALS
from mockchat.requester import cli as requester_cli
from mockchat.server import cli as server_cli
from tests.programs import REQUESTER, SERVER, STOP_TIMEOUT, Call

MAINS: dict[Path, Callable[[Sequence[str]], int]] = {SERVER: server_cli.main, REQUESTER: requester_cli.main}


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Call]:
    """Call a program's function; what it changed in this process is put right in the end."""
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)
    for name in ("SEED_ERRORS", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(gc, "freeze", lambda: None)  # What a program has read is this process's garbage.

    def run(program: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        with monkeypatch.context() as changed:
            changed.setattr(sys, "argv", [str(program)])
            for name, value in changes.items():
                changed.setenv(name, value)
            stop = Timer(STOP_TIMEOUT, os.kill, (os.getpid(), signal.SIGTERM))  # A server that runs after all.
            stop.start()
            try:
                status = MAINS[program](arguments)
            except SystemExit as ended:  # As argparse ends it.
                assert isinstance(ended.code, int)
                status = ended.code
            finally:
                stop.cancel()
                stop.join()
        return subprocess.CompletedProcess(arguments, status, *capsys.readouterr())

    yield run
    resource.setrlimit(resource.RLIMIT_NOFILE, descriptors)
    for number, handler in handlers.items():
        signal.signal(number, handler)
