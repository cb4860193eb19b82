"""What a run reports: a summary and a verdict for people, and the same as JSON."""

import math
import os
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from textwrap import fill
from typing import Any

from tqdm import tqdm

from mockchat.requester.plan import Load
from mockchat.requester.result import Failure, Result, place
from mockchat.requester.verify import ERROR, MISMATCHED, NOT_FOUND

MS = 1000  # of a second
BINS = 10  # of a histogram, without the last one
BAR_WIDTH = 40  # characters


def summary(result: Result, conversations: int, load: Load) -> str:
    """The report without its verdict, in lines of at most 79 characters."""
    sent, received = (tqdm.format_sizeof(size, "B") for size in (result.bytes_sent, result.bytes_received))
    mean, most = significant(result.mean_in_flight), f"{result.most_in_flight:,}"
    rows = {
        "Requests": f"{result.requests:,} over {conversations:,} conversations",
        "Elapsed": f"{significant(result.elapsed)} s",
        "Requests/s": significant(result.rate),
        "In flight": f"{mean} on average, {most} at most (limit {load.concurrency:,})",
        "Bytes": f"{sent} sent, {received} received",
        "Verified": f"{result.passed:,}",
        "Not found": f"{result.counts[NOT_FOUND]:,}",
        "Mismatched": f"{result.counts[MISMATCHED]:,}",
        "Errors": f"{result.counts[ERROR]:,}",
    }
    if result.drain > 0.01 * result.elapsed:
        rows["Elapsed"] += f", of which {significant(result.drain)} s for the last answers"
    if load.rate:
        rows["Requests/s"] += f" of {load.rate:,.10g} asked for"
    if load.processes > 1:
        rows["In flight"] += f" by {load.processes:,} processes"
    if load.retries:
        rows["Attempts"] = "; ".join(f"{number:,}: {count:,}" for number, count in sorted(result.attempts.items()))
    lines = [f"{name:<13}{value}" for name, value in rows.items()]
    lines += _distribution("Latency", result.latencies)
    lines += _distribution("Time to first token", result.first_tokens)
    lines += _distribution("Inter-token latency", result.gaps)
    lines += _failures(result.failures)
    busy = result.cpu / result.elapsed / min(load.processes, os.cpu_count() or 1) if result.elapsed > 1 else 0.0
    if busy > 0.9 and result.passed:
        share = f"The requester computed {min(busy, 1):.0%} of the time: it was the limit, not the server."
        lines += ["", f"{share} Give it more processes, as far as there are cores, or more machines."]
    return "\n".join(fill(line, 79, subsequent_indent="  ") for line in lines)


def verdict(result: Result, load: Load) -> str:
    """The verdict in a sentence; a second one if the limit of requests in flight kept the rate down."""
    failed = [f"{len(result.failures):,} of {result.requests:,} requests"] if result.failures else []
    failed += [f"{how}, and its results are lost" for how in result.lost]
    if failed:
        told = f"FAILED: {'; '.join(failed)}."
    elif result.interrupted:
        told = f"Interrupted: the {result.passed:,} answers so far are verified."
    else:
        told = f"All {result.passed:,} replies verified." if result.passed else "Nothing was asked."
    if load.rate and result.rate < 0.99 * load.rate and result.most_in_flight >= load.concurrency:
        # Little's law: so many requests in flight make that rate.
        needed = max(load.concurrency + 1, math.ceil(load.rate * result.in_flight / max(1, result.requests)))
        told += f" --concurrency kept the rate down to {significant(result.rate)} a second: give {needed:,} or more."
    return told


def first_failure(failure: Failure) -> str:
    kind, cause, detail = failure.problem
    return f"{kind}: {cause}, first in {place(*failure[:2])}: {detail}"


def as_json(result: Result, conversations: int, load: Load) -> dict[str, Any]:
    report = {
        "version": 2,  # It grows when a key goes or changes its meaning.
        "requests": result.requests,
        "conversations": conversations,
        "passed": result.passed,
        "not_found": result.counts[NOT_FOUND],
        "mismatched": result.counts[MISMATCHED],
        "errors": result.counts[ERROR],
        "interrupted": result.interrupted,
        "processes": load.processes,
        "lost_processes": result.lost,
        **{f"{name}_s": round(getattr(result, name), 6) for name in ("elapsed", "sending", "drain", "cpu")},
        "requests_per_s": round(result.rate, 3),
        "concurrency": load.concurrency,
        "in_flight": {"mean": round(result.mean_in_flight, 3), "max": result.most_in_flight},
        "rate": load.rate,
        "retries": load.retries,
        "attempts": dict(sorted(result.attempts.items())),
        "bytes_sent": result.bytes_sent,
        "bytes_received": result.bytes_received,
        "latency_ms": latency_ms(result.latencies) or None,
        "failure_latency_ms": latency_ms(failure.latency for failure in result.failures) or None,
        "failures": [
            {
                "conversation_id": failure.conversation_id,
                "message_index": failure.message_index,
                "at_s": round(failure.at, 6),
                "latency_ms": round(MS * failure.latency, 6),
                **failure.problem._asdict(),
            }
            for failure in result.failures
        ],
    }
    if load.stream:
        report |= {"ttft_ms": latency_ms(result.first_tokens) or None, "itl_ms": latency_ms(result.gaps) or None}
    return report


def _distribution(title: str, seconds: Sequence[float]) -> list[str]:
    figures = latency_ms(seconds)
    if not figures:
        return []
    head = "".join(f"{name:>9}" for name in figures)
    values = "".join(f"{significant(value):>9}" for value in figures.values())
    return ["", f"{title}, ms", head, values, "", *_histogram(sorted(seconds))]


def _histogram(ordered: Sequence[float]) -> Iterator[str]:
    """Rows of equal width up to the 99th percentile, and one for the rest: a slow answer would squeeze all others."""
    low, high = ordered[0], percentile(ordered, 99)
    edges = [*(low + (high - low) * number / BINS for number in range(1, BINS)), high, ordered[-1]]
    ends = [bisect_right(ordered, edge) for edge in edges]
    counts = [end - start for start, end in pairwise([0, *ends])]
    for edge, count in zip(edges, counts, strict=True):
        if count or edge < high:
            bar = "#" * -(-BAR_WIDTH * count // max(counts))
            yield f"{MS * edge:>12,.3f} |{bar:<{BAR_WIDTH}} {count:,}"


def _failures(failures: Iterable[Failure]) -> Iterator[str]:
    """The number and the times of each kind and cause, and its first failure; the most frequent first."""
    alike: defaultdict[str, list[Failure]] = defaultdict(list)
    for failure in failures:
        alike[f"{failure.problem.kind}: {failure.problem.cause}"].append(failure)
    for what, group in sorted(alike.items(), key=lambda item: (-len(item[1]), item[0])):
        first, figures = group[0], latency_ms(failure.latency for failure in group)
        times = f"p50 {significant(figures['p50'])} ms, max {significant(figures['max'])} ms"
        yield from ("", f"{len(group):,} x {what} ({times})", f"  first in {place(*first[:2])}:")
        yield f"  {first.problem.detail}"


def percentile(ordered: Sequence[float], percent: int) -> float:
    """The nearest-rank percentile of at least one value, in ascending order."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def latency_ms(latencies: Iterable[float]) -> dict[str, float]:
    """The figures in milliseconds, to the nanosecond, of latencies in seconds; none without any latency."""
    ordered = sorted(latencies)
    if not ordered:
        return {}
    percentiles = {f"p{percent}": percentile(ordered, percent) for percent in (50, 90, 95, 99)}
    figures = {"min": ordered[0], "mean": sum(ordered) / len(ordered), **percentiles, "max": ordered[-1]}
    return {name: round(MS * seconds, 6) for name, seconds in figures.items()}


def significant(value: float) -> str:
    """A figure with at least three significant digits: 0.110, 2.66, 1,234."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:#.3g}"
