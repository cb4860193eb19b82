"""A run as JSON, for programs: times in the unit that their names end with, sizes in bytes."""

from collections.abc import Sequence
from typing import Any

from mockchat.requester.figures import Figures, in_ms, latency_ms
from mockchat.requester.plan import Load
from mockchat.requester.result import Failure, Result
from mockchat.requester.verify import ERROR, MISMATCHED, NOT_FOUND

VERSION = 2  # Of its form: it grows when a key goes or changes its meaning.


def failure_json(failure: Failure) -> dict[str, Any]:
    """A failure as JSON data; `at_s` is when its request was due, in seconds from the start of the run."""
    return {
        "conversation_id": failure.conversation_id,
        "message_index": failure.message_index,
        "at_s": round(failure.at, 6),
        "latency_ms": in_ms(failure.latency),
        **failure.problem._asdict(),
    }


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
        "failures": [failure_json(failure) for failure in result.failures],
    }
    if load.stream:
        report |= {"ttft_ms": _figures(result.first_tokens), "itl_ms": _figures(result.gaps)}
    return report


def _figures(latencies: Sequence[float]) -> Figures | None:
    return latency_ms(latencies) if latencies else None
