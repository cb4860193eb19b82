"""The report for people: the summary, the verdict, and how figures are computed and spelled."""

import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from textwrap import wrap

from mockchat.requester.plan import Load
from mockchat.requester.result import Failure, Result
from mockchat.requester.verify import ERROR, MISMATCHED, NOT_FOUND

MS = 1000  # of a second
MOST_DECIMALS = 6  # of milliseconds, down to a nanosecond: no clock is finer
WIDTH = 79  # characters of a line
BINS = 10  # of a histogram, without the last one
BAR_WIDTH = 40  # characters
BUSY = 0.9  # The CPU share above which the requester was the limit.
LONG_DRAIN = 0.01  # The share of the elapsed time above which the drain is shown.
KEPT = 0.99  # The share of the rate asked for above which it was kept.

Figures = dict[str, float]


def summary(result: Result, conversations: int, load: Load) -> str:
    """The report without its verdict, in lines of at most 79 characters."""
    lines = []
    for name, value in _rows(result, conversations, load):
        lines += wrap(f"{name:<13}{value}", WIDTH, subsequent_indent=" " * 13)
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
    return told + _missed_rate(result, load)


def _missed_rate(result: Result, load: Load) -> str:
    """The limit to give if the one of requests in flight kept the rate down; Little's law says how many are needed."""
    if not load.rate or result.rate >= KEPT * load.rate or result.most_in_flight < load.concurrency:
        return ""
    needed = max(load.concurrency + 1, math.ceil(load.rate * result.in_flight / max(1, result.requests)))
    return (
        f" The rate was {significant(result.rate)} of {load.rate:,.10g} a second, since at most {load.concurrency:,} "
        f"requests were in flight: give --concurrency {needed} or more."
    )


def first_failure(failure: Failure) -> str:
    """A failure in a line."""
    kind, cause, detail = failure.problem
    return f"{kind}: {cause}, first in {failure.where}: {detail}"


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


def _size(size: int) -> str:
    if size < 1000:
        return f"{size:,} B"
    exponent = 1 if size < 999_500 else 2 if size < 999_500_000 else 3
    return f"{significant(size / 1000**exponent)} {('kB', 'MB', 'GB')[exponent - 1]}"


def _distribution(title: str, seconds: Sequence[float]) -> list[str]:
    """The figures in milliseconds, and a histogram whose last row has all above the 99th percentile.

    In rows of equal width, one slow answer would squeeze all others into the first.
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
    shown = decimals(width, 2) if width else decimals(high, 3)  # Enough to tell the edges apart.
    for edge, count in zip([*edges, ordered[-1]], counts, strict=True):
        if count or edge < high:
            bar = "#" * -(-BAR_WIDTH * count // max(counts))
            yield f"{edge:>9,.{shown}f} |{bar:<{BAR_WIDTH}} {count:,}".rstrip()


def _failures(failures: Sequence[Failure]) -> Iterator[str]:
    """The number and the latencies of each kind and cause, the most frequent first; then the first failure of each."""
    alike: defaultdict[str, list[Failure]] = defaultdict(list)
    for failure in failures:
        alike[f"{failure.problem.kind}: {failure.problem.cause}"].append(failure)
    in_order = sorted(alike.items(), key=lambda item: (-len(item[1]), item[0]))
    if failures:
        yield from ("", "Failures, ms", f"{'count':>9}{'p50':>9}{'slowest':>9}")
    for what, group in in_order:
        figures = latency_ms(failure.latency for failure in group)
        row = f"{len(group):>9,}{significant(figures['p50']):>9}{significant(figures['max']):>9}  "
        yield from wrap(what, WIDTH, initial_indent=row, subsequent_indent=" " * len(row))
    for what, (first, *others) in in_order:
        yield from ("", f"{1 + len(others):,} x {what}", f"  first in {first.where}:")
        yield from wrap(first.problem.detail, WIDTH, initial_indent="  ", subsequent_indent="  ")


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of at least one value, in ascending order."""
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]


def latency_ms(latencies: Iterable[float]) -> Figures:
    """The reported figures in milliseconds, of at least one latency in seconds."""
    ordered = sorted(latencies)
    percentiles = {f"p{percent}": percentile(ordered, percent) for percent in (50, 90, 95, 99)}
    figures = {"min": ordered[0], "mean": sum(ordered) / len(ordered), **percentiles, "max": ordered[-1]}
    return {name: in_ms(seconds) for name, seconds in figures.items()}


def in_ms(seconds: float) -> float:
    """Seconds in milliseconds, to the nanosecond."""
    return round(MS * seconds, MOST_DECIMALS)


def significant(value: float) -> str:
    """A figure with at least three significant digits: 0.110, 2.66, 1,234."""
    return f"{value:,.{decimals(value, 3)}f}"


def decimals(value: float, digits: int) -> int:
    """The number of decimals that show so many significant digits."""
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    return min(max(0, digits - 1 - exponent), MOST_DECIMALS)
