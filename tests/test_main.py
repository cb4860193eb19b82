"""`python -m mockchat`: each word starts its program, and no word is told what there is.

Ctrl-C while a program is imported ends it at once, with one status and without a word.
"""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mockchat import __main__
from mockchat.__main__ import load
from tests.programs import STOP_TIMEOUT


@pytest.mark.parametrize(
    ("given", "status", "told"),
    [
        (["serve", "--port", "x"], 2, "'x' is not a whole number from 0 to 65,535"),
        (["replay", "--rate", "x"], 2, "'x' is not a number above 0"),
        (["bench", "--rate", "x"], 2, "'x' is not a number above 0"),
        (["seed-test", "--data", "missing.json", "--seed", "1"], 2, "unrecognized arguments: --seed 1"),
        ([], 2, "usage: python -m mockchat serve|replay|bench|seed-test [--help]"),
        (["plot"], 2, "usage: python -m mockchat serve|replay|bench|seed-test [--help]"),
    ],
)
def test_programs(
    given: list[str], status: int, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["__main__.py", *given])
    try:
        ended: object = __main__.main()
    except SystemExit as by_argparse:
        ended = by_argparse.code
    assert ended == status
    assert told in capsys.readouterr().err


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
    command += "; from mockchat.__main__ import PROGRAMS, load; PROGRAMS['slow'] = 'slow'; sys.exit(load('slow')())"
    ended = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, timeout=STOP_TIMEOUT, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (status, "", "")


def test_afterwards_the_signal_does_what_it_did_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    load("serve")
    assert signal.getsignal(signal.SIGINT) is before
