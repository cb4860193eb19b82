"""What a run looks like: the summary for people, JSON for programs. The picture is in `plot`."""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from textwrap import wrap
from typing import Any

from mockchat.requester.plan import Load
from mockchat.requester.result import Failure, Result
from mockchat.requester.verify import ERROR, MISMATCHED, NOT_FOUND

VERSION = 1  # Of the JSON's form: it grows when a key goes or changes its meaning.
WIDTH = 79  # characters of a line
BINS = 10  # of a histogram, beside the last one
BAR_WIDTH = 40  # characters
BUSY = 0.9  # The share of the time from which on the requester is said to have been the limit.

Figures = dict[str, float]


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest of the ordered values that at least `percent` % of them do not exceed; 0 if there are none."""
    if not ordered:
        return 0.0
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]


def latency_ms(latencies: Iterable[float]) -> Figures:
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


def failure_json(failure: Failure) -> dict[str, Any]:
    """A failure as JSON data; `at_s` is when its request was due, in seconds from the start of the run."""
    return {
        "conversation_id": failure.conversation_id,
        "message_index": failure.message_index,
        "at_s": round(failure.at, 6),
        **failure.problem._asdict(),
    }


def as_json(result: Result, conversations: int, load: Load) -> dict[str, Any]:
    """The run as JSON data: times in the unit of their names' ends, sizes in bytes."""
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
        "cpu_s": round(result.cpu, 6),
        "requests_per_s": round(rate(result), 1),
        "concurrency": load.concurrency,
        "rate": load.rate,
        "retries": load.retries,
        "attempts": attempts(result),
        "bytes_sent": result.bytes_sent,
        "bytes_received": result.bytes_received,
        "latency_ms": latency_ms(result.latencies),
        "failures": [failure_json(failure) for failure in result.failures],
    }
    if load.stream:
        report |= {"ttft_ms": latency_ms(result.first_tokens), "itl_ms": latency_ms(result.gaps)}
    return report


def attempts(result: Result) -> dict[int, int]:
    """The number of requests by that of their attempts, the fewest first."""
    counts = {1: result.requests - result.retried.total(), **dict(sorted(result.retried.items()))}
    return {number: count for number, count in counts.items() if count}


def rate(result: Result) -> float:
    """Requests a second."""
    return result.requests / result.elapsed if result.elapsed else 0.0


def summary(result: Result, conversations: int, load: Load) -> str:
    """The run as lines of at most 79 characters, all but its verdict."""
    asked = f" of {load.rate:g} asked for" if load.rate else ""
    by = f" by {load.processes:,} processes" if load.processes > 1 else ""
    rows = [
        ("Requests", f"{result.requests:,} over {conversations:,} conversations"),
        ("Elapsed", f"{result.elapsed:.3f} s"),
        ("Requests/s", f"{rate(result):,.0f}{asked} with {load.concurrency:,} in flight{by}"),
        ("Bytes", f"{_size(result.bytes_sent)} sent, {_size(result.bytes_received)} received"),
        ("Verified", f"{result.passed:,}"),
        ("Not found", f"{result.counts[NOT_FOUND]:,}"),
        ("Mismatched", f"{result.counts[MISMATCHED]:,}"),
        ("Errors", f"{result.counts[ERROR]:,}"),
    ]
    if load.retries:
        rows.append(("Attempts", "; ".join(f"{number:,}: {count:,}" for number, count in attempts(result).items())))
    lines = [line for name, value in rows for line in wrap(f"{name:<13}{value}", WIDTH, subsequent_indent=" " * 13)]
    lines += _distribution("Latency", result.latencies)
    if load.stream:
        lines += _distribution("Time to first token", result.first_tokens)
        lines += _distribution("Inter-token latency", result.gaps)
    lines += _failures(result.failures)
    cores = min(load.processes, os.cpu_count() or 1)
    busy = result.cpu / result.elapsed / cores if result.elapsed else 0.0
    if busy > BUSY and result.passed and result.elapsed > 1:
        note = (
            f"The requester computed {min(busy, 1):.0%} of the time: it was the limit, not the server. To load the "
            "server more, give the requester more processes, as far as there are cores, or more machines."
        )
        lines += ["", *wrap(note, WIDTH)]
    return "\n".join(lines)


def verdict(result: Result) -> str:
    """The run in one sentence."""
    failed = [f"{len(result.failures):,} of {result.requests:,} requests"] if result.failures else []
    failed += [f"{how}, and what it found is lost" for how in result.lost]
    if failed:
        return f"FAILED: {'; '.join(failed)}."
    if result.interrupted:
        return f"Interrupted: the {result.passed:,} answers so far are verified."
    if not result.passed:
        return "Nothing was asked."
    return f"All {result.passed:,} replies verified."


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"


def _distribution(title: str, seconds: Sequence[float]) -> list[str]:
    """The figures in milliseconds, and a histogram of which the last row has all above the 99th percentile.

    In rows of equal width, a single slow answer would squeeze all others into the first.
    """
    if not seconds:
        return []
    ordered = sorted(seconds)
    figures = latency_ms(ordered)
    names = {"min": "fastest", "max": "slowest"}
    head = "".join(f"{names.get(name, name):>9}" for name in figures)
    values = "".join(f"{value:>9.2f}" for value in figures.values())
    lines = ["", f"{title}, ms", head, values, ""]
    ordered = [1000 * value for value in ordered]
    low, high = ordered[0], percentile(ordered, 99)
    edges = [low + (high - low) * number / BINS for number in range(1, BINS)] + [high]
    counts = [0] * (BINS + 1)
    row = 0
    for value in ordered:
        while row < BINS and value > edges[row]:
            row += 1
        counts[row] += 1
    for edge, count in zip([*edges, ordered[-1]], counts, strict=True):
        if count or edge < high:
            bar = "#" * -(-BAR_WIDTH * count // max(counts))
            lines.append(f"{edge:>9.2f} |{bar:<{BAR_WIDTH}} {count:,}".rstrip())
    return lines


def _failures(failures: Sequence[Failure]) -> Iterator[str]:
    """What failed alike, each with the first of its kind in full."""

    def alike(failure: Failure) -> tuple[str, str]:
        return failure.problem.kind, failure.problem.cause

    for (kind, cause), group in groupby(sorted(failures, key=alike), alike):
        first, *others = group
        yield ""
        yield f"{1 + len(others):,} x {kind}: {cause}"
        yield f"  first in conversation {first.conversation_id}, message {first.message_index}:"
        yield from wrap(first.problem.detail, WIDTH, initial_indent="  ", subsequent_indent="  ")
