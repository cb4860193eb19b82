"""The real programs as processes, for the whole-program tests."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from mockchat.programs import STOP_TIMEOUT, gunicorn, running_server, wait_for_workers

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
