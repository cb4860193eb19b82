"""The files that a run writes: the results as JSON, and whether they can be written.

JSON times have the unit that their names end with; sizes are in bytes. The path `-` is standard output.
"""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from mockchat.core.program import ProgramError
from mockchat.requester.plan import Load
from mockchat.requester.report import Figures, in_ms, latency_ms
from mockchat.requester.result import Result
from mockchat.requester.verify import ERROR, MISMATCHED, NOT_FOUND

STANDARD_OUTPUT = Path("-")
VERSION = 2  # It grows when a key goes or changes its meaning.


def as_json(result: Result, conversations: int, load: Load) -> dict[str, Any]:
    """The run as JSON data."""
    report = {
        "version": VERSION,
        "requests": result.requests,
        "conversations": conversations,
        "passed": result.passed,
        "not_found": result.counts[NOT_FOUND],
        "mismatched": result.counts[MISMATCHED],
        "errors": result.counts[ERROR],
        "interrupted": result.interrupted,
        "processes": load.processes,
        "lost_processes": result.lost,
        "elapsed_s": round(result.elapsed, 6),
        "sending_s": round(result.sending, 6),
        "drain_s": round(result.drain, 6),
        "cpu_s": round(result.cpu, 6),
        "requests_per_s": round(result.rate, 3),
        "concurrency": load.concurrency,
        "in_flight": {"mean": round(result.mean_in_flight, 3), "max": result.most_in_flight},
        "rate": load.rate,
        "retries": load.retries,
        "attempts": result.attempts,
        "bytes_sent": result.bytes_sent,
        "bytes_received": result.bytes_received,
        "latency_ms": _figures(result.latencies),
        "failure_latency_ms": _figures([failure.latency for failure in result.failures]),
        "failures": [
            {
                "conversation_id": failure.conversation_id,
                "message_index": failure.message_index,
                "at_s": round(failure.at, 6),
                "latency_ms": in_ms(failure.latency),
                **failure.problem._asdict(),
            }
            for failure in result.failures
        ],
    }
    if load.stream:
        report |= {"ttft_ms": _figures(result.first_tokens), "itl_ms": _figures(result.gaps)}
    return report


def _figures(latencies: Sequence[float]) -> Figures | None:
    return latency_ms(latencies) if latencies else None


def check(paths: Sequence[Path], data: Iterable[Path]) -> None:
    """Raise `ProgramError` for a path that can't be written, is a file of recordings, or is given twice.

    Nothing is opened or made: until there are results, what is there stays.
    """
    taken = set(map(os.path.realpath, data))
    for path in paths:
        if path == STANDARD_OUTPUT:
            continue
        name = os.path.realpath(path)
        folder = os.path.dirname(name)
        if name in taken:
            raise ProgramError(f"{path} is the file of the recordings, or of another option: give another")
        taken.add(name)
        if os.path.isdir(name):
            raise cannot_write(path, "Is a directory")
        if not os.path.isdir(folder):
            raise cannot_write(path, "No such directory")
        if not os.access(name if os.path.exists(name) else folder, os.W_OK):
            raise cannot_write(path, "Permission denied")


def standard_output_kept(path: Path | None) -> AbstractContextManager[Any]:
    """Print to standard error, if standard output is for this file."""
    return redirect_stdout(sys.stderr) if path == STANDARD_OUTPUT else nullcontext()


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Write a report to its path. Raises `ProgramError`."""
    text = json.dumps(report, indent=2) + "\n"
    if path == STANDARD_OUTPUT:
        print(text, end="", flush=True)
        return
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise cannot_write(path, error.strerror) from None


def cannot_write(path: Path, why: str | None) -> ProgramError:
    """The error for a file that can't be written."""
    return ProgramError(f"can't write {path}: {why}")
