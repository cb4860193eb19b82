"""What a run looks like: the summary for people, the JSON for programs."""

from collections.abc import Sequence
from typing import Any

from mockchat.replay import ERROR, MISMATCHED, NOT_FOUND, Failure, Result

SHOWN_FAILURES = 10


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest of the ordered values that at least `percent` % of them do not exceed; 0 if there are none."""
    if not ordered:
        return 0.0
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]


def latency_ms(latencies: Sequence[float]) -> dict[str, float]:
    """Latencies in seconds as the figures that are reported, in milliseconds."""
    ordered = sorted(latencies)
    figures = {
        "min": percentile(ordered, 0),
        "mean": sum(ordered) / len(ordered) if ordered else 0.0,
        "p50": percentile(ordered, 50),
        "p90": percentile(ordered, 90),
        "p95": percentile(ordered, 95),
        "p99": percentile(ordered, 99),
        "max": percentile(ordered, 100),
    }
    return {name: round(1000 * seconds, 3) for name, seconds in figures.items()}


def as_json(result: Result, conversations: int, concurrency: int) -> dict[str, Any]:
    """The run as JSON data: `elapsed_s` in seconds, the latencies and (of streams) times to first token in ms."""
    report = {
        "requests": result.requests,
        "conversations": conversations,
        "passed": result.passed,
        "not_found": result.count(NOT_FOUND),
        "mismatched": result.count(MISMATCHED),
        "errors": result.count(ERROR),
        "elapsed_s": round(result.elapsed, 6),
        "requests_per_s": round(rate(result), 1),
        "concurrency": concurrency,
        "latency_ms": latency_ms(result.latencies),
        "failures": [failure._asdict() for failure in result.failures],
    }
    if result.first_tokens:
        report["ttft_ms"] = latency_ms(result.first_tokens)
    return report


def rate(result: Result) -> float:
    """Requests a second."""
    return result.requests / result.elapsed if result.elapsed else 0.0


def summary(result: Result, conversations: int, concurrency: int) -> str:
    """The run as lines of text."""
    rows = [
        ("Requests", f"{result.requests:,} over {conversations:,} conversations"),
        ("Elapsed", f"{result.elapsed:.3f} s"),
        ("Requests/s", f"{rate(result):,.0f} with {concurrency} in flight"),
        ("Latency", _percentiles(result.latencies)),
        *([("First token", _percentiles(result.first_tokens))] if result.first_tokens else []),
        ("Verified", f"{result.passed:,}"),
        ("Not found", f"{result.count(NOT_FOUND):,}"),
        ("Mismatched", f"{result.count(MISMATCHED):,}"),
        ("Errors", f"{result.count(ERROR):,}"),
    ]
    lines = [f"{name:<13}{value}" for name, value in rows]
    shown = result.failures[:SHOWN_FAILURES]
    if shown:
        more = f" (the first {len(shown)} of {len(result.failures):,})" if len(shown) < len(result.failures) else ""
        lines += ["", f"Failures{more}:", *map(describe, shown)]
    return "\n".join([*lines, "", verdict(result)])


def _percentiles(latencies: Sequence[float]) -> str:
    figures = latency_ms(latencies)
    return ", ".join(f"{name} {figures[name]:.2f}" for name in ("p50", "p90", "p99", "max")) + " ms"


def describe(failure: Failure) -> str:
    """A failure as one line."""
    conversation_id, message_index, kind, detail = failure
    return f"  {kind} in conversation {conversation_id}, message {message_index}: {detail}"


def verdict(result: Result) -> str:
    """The run in one sentence."""
    if result.failures:
        return f"FAILED: {len(result.failures):,} of {result.requests:,} requests."
    if result.interrupted:
        return f"Interrupted: the {result.passed:,} answers so far are verified."
    return f"All {result.passed:,} replies verified."
