"""What is computed from times, and how figures are spelled: the same for the summary, the JSON and the picture."""

from collections.abc import Iterable, Sequence

MS = 1000  # of a second
MOST_DECIMALS = 6  # Of milliseconds, the last one is nanoseconds: no clock tells more.

Figures = dict[str, float]


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest of the ordered values that at least `percent` % of them do not exceed; 0 if there are none."""
    if not ordered:
        return 0.0
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]


def latency_ms(latencies: Iterable[float]) -> Figures:
    """Latencies in seconds, one at least, as the figures that are reported, in milliseconds."""
    ordered = sorted(latencies)
    figures = {
        "min": percentile(ordered, 0),
        "mean": sum(ordered) / len(ordered),
        "p50": percentile(ordered, 50),
        "p90": percentile(ordered, 90),
        "p95": percentile(ordered, 95),
        "p99": percentile(ordered, 99),
        "max": percentile(ordered, 100),
    }
    return {name: in_ms(seconds) for name, seconds in figures.items()}


def in_ms(seconds: float) -> float:
    """Seconds in milliseconds, to the nanosecond."""
    return round(MS * seconds, MOST_DECIMALS)


def significant(value: float) -> str:
    """A figure for people, with three significant digits, or all of its whole part: 0.110, 2.66, 1,234."""
    return f"{value:,.{decimals(value, 3)}f}"


def decimals(value: float, digits: int) -> int:
    """How many decimals a figure needs to show so many significant digits."""
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    return min(max(0, digits - 1 - exponent), MOST_DECIMALS)
