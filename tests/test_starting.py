"""Ctrl-C while a program is imported: it ends at once, with one status and without a word."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mockchat.starting import load
from tests.programs import STOP_TIMEOUT

# A callback in which a KeyboardInterrupt would be printed and ignored.
PROGRAM = """
import os, signal, weakref

class Object: pass

def interrupt(reference):
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000): pass

def main(): return 7

interrupted = Object()
reference = weakref.ref(interrupted, interrupt)
del interrupted
"""


@pytest.mark.parametrize(("handler", "status"), [("default_int_handler", 130), ("SIG_IGN", 7)])
def test_an_interrupted_import_ends_quietly(tmp_path: Path, handler: str, status: int) -> None:
    """Unless the process was started to ignore it, as by `&` in a script."""
    (tmp_path / "slow.py").write_text(PROGRAM)
    command = (
        f"import signal, sys; sys.path.insert(0, {str(tmp_path)!r}); signal.signal(signal.SIGINT, signal.{handler})"
    )
    command += "; from mockchat.starting import load; sys.exit(load('slow')())"
    ended = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, timeout=STOP_TIMEOUT, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (status, "", "")


def test_afterwards_the_signal_does_what_it_did_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    load("mockchat.server.cli")
    assert signal.getsignal(signal.SIGINT) is before
