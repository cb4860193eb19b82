"""What a run looks like to people: the summary and the verdict. The JSON is in `json_report`, the picture in `plot`."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from textwrap import wrap

from mockchat.requester.figures import MS, decimals, latency_ms, percentile, significant
from mockchat.requester.plan import Load
from mockchat.requester.result import Failure, Result
from mockchat.requester.verify import ERROR, MISMATCHED, NOT_FOUND

WIDTH = 79  # characters of a line
BINS = 10  # of a histogram, beside the last one
BAR_WIDTH = 40  # characters
BUSY = 0.9  # The share of the time from which on the requester is said to have been the limit.
LONG_DRAIN = 0.01  # The share of the time from which on it is told apart.

Alike = tuple[str, list[Failure]]  # Their kind and cause, and all that have these.


def summary(result: Result, conversations: int, load: Load) -> str:
    """The run as lines of at most 79 characters, all but its verdict."""
    lines = []
    for name, value in _rows(result, conversations, load):
        lines += wrap(f"{name:<13}{value}", WIDTH, subsequent_indent=" " * 13)
    lines += _distribution("Latency", result.latencies)
    if load.stream:
        lines += _distribution("Time to first token", result.first_tokens)
        lines += _distribution("Inter-token latency", result.gaps)
    alike = _alike(result.failures)
    lines += [*_failure_times(alike), *_first_failures(alike)]
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


def first_failure(failure: Failure) -> str:
    """The failure that stands for all, in a line."""
    kind, cause, detail = failure.problem
    return (
        f"{kind}: {cause}, first in conversation {failure.conversation_id}, message {failure.message_index}: {detail}"
    )


def _rows(result: Result, conversations: int, load: Load) -> Iterator[tuple[str, str]]:
    yield "Requests", f"{result.requests:,} over {conversations:,} conversations"
    if result.drain > LONG_DRAIN * result.elapsed:
        sending, drain = significant(result.elapsed - result.drain), significant(result.drain)
        yield "Elapsed", f"{sending} s, and {drain} s for the last answers"
    else:
        yield "Elapsed", f"{significant(result.elapsed)} s"
    yield "Requests/s", significant(result.rate) + (f" of {load.rate:,.10g} asked for" if load.rate else "")
    by = f" by {load.processes:,} processes" if load.processes > 1 else ""
    mean, most = significant(result.mean_in_flight), f"{result.most_in_flight:,}"
    yield "In flight", f"{mean} on average, {most} at most (limit {load.concurrency:,}){by}"
    yield "Bytes", f"{_size(result.bytes_sent)} sent, {_size(result.bytes_received)} received"
    yield "Verified", f"{result.passed:,}"
    yield "Not found", f"{result.counts[NOT_FOUND]:,}"
    yield "Mismatched", f"{result.counts[MISMATCHED]:,}"
    yield "Errors", f"{result.counts[ERROR]:,}"
    if load.retries:
        yield "Attempts", "; ".join(f"{number:,}: {count:,}" for number, count in result.attempts.items())


def _size(size: float) -> str:
    if size < 1000:
        return f"{size:,} B"
    for unit in ("kB", "MB"):
        size /= 1000
        if size < 999.5:
            return f"{significant(size)} {unit}"
    return f"{significant(size / 1000)} GB"


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
    values = "".join(f"{significant(value):>9}" for value in figures.values())
    return ["", f"{title}, ms", head, values, "", *_histogram([MS * value for value in ordered])]


def _histogram(ordered: Sequence[float]) -> Iterator[str]:
    low, high = ordered[0], percentile(ordered, 99)
    width = (high - low) / BINS
    edges = [low + width * number for number in range(1, BINS)] + [high]
    counts = [0] * (BINS + 1)
    row = 0
    for value in ordered:
        while row < BINS and value > edges[row]:
            row += 1
        counts[row] += 1
    shown = decimals(width, 2) if width else decimals(high, 3)  # So many that each edge differs from the next.
    for edge, count in zip([*edges, ordered[-1]], counts, strict=True):
        if count or edge < high:
            bar = "#" * -(-BAR_WIDTH * count // max(counts))
            yield f"{edge:>9,.{shown}f} |{bar:<{BAR_WIDTH}} {count:,}".rstrip()


def _alike(failures: Sequence[Failure]) -> list[Alike]:
    """What failed alike, the most frequent first."""
    found: defaultdict[str, list[Failure]] = defaultdict(list)
    for failure in failures:
        found[f"{failure.problem.kind}: {failure.problem.cause}"].append(failure)
    return sorted(found.items(), key=lambda alike: (-len(alike[1]), alike[0]))


def _failure_times(all_alike: Sequence[Alike]) -> Iterator[str]:
    """How often each cause occurred, and after how long."""
    if all_alike:
        yield from ("", "Failures, ms", f"{'count':>9}{'p50':>9}{'slowest':>9}")
    for what, failures in all_alike:
        figures = latency_ms(failure.latency for failure in failures)
        row = f"{len(failures):>9,}{significant(figures['p50']):>9}{significant(figures['max']):>9}  "
        yield from wrap(what, WIDTH, initial_indent=row, subsequent_indent=" " * len(row))


def _first_failures(all_alike: Sequence[Alike]) -> Iterator[str]:
    """Of all that failed alike, the first in full."""
    for what, failures in all_alike:
        first = failures[0]
        yield ""
        yield f"{len(failures):,} x {what}"
        yield f"  first in conversation {first.conversation_id}, message {first.message_index}:"
        yield from wrap(first.problem.detail, WIDTH, initial_indent="  ", subsequent_indent="  ")
