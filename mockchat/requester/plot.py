"""A run as a picture, drawn with matplotlib (the extra `plot`)."""

from pathlib import Path
from typing import Any

from mockchat.requester.report import percentile
from mockchat.requester.result import Result

SUFFIXES = (".png", ".svg", ".pdf")
POINTS = 20_000  # More of them only make the file larger.
MS = 1000
COLOURS = {"answered": "#4878a8", "not_found": "#e69f00", "mismatched": "#cc3311", "error": "#882255"}


def is_possible() -> bool:
    """Whether matplotlib is there."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def draw(result: Result, title: str, path: Path) -> None:
    """Write the picture in the form that the path's suffix names.

    Above, the latency of each request at the time when it was due, and over it the failures where they happened;
    below, how the latencies are distributed, with their percentiles. Raises `OSError` where it can't be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.5), layout="constrained")
    over_time, distribution = figure.subplots(2, 1)
    figure.suptitle(title, parse_math=False)
    _draw_over_time(over_time, result)
    _draw_distribution(distribution, [MS * seconds for seconds in result.latencies])
    for axes in (over_time, distribution):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def _draw_over_time(axes: Any, result: Result) -> None:
    every = max(1, len(result.latencies) // POINTS)
    latencies = [MS * seconds for seconds in result.latencies[::every]]
    axes.plot(result.due[::every], latencies, ".", markersize=2, color=COLOURS["answered"], label="answered")
    for kind in result.counts:
        due = [failure.at for failure in result.failures if failure.problem.kind == kind]
        axes.plot(
            due,
            [1.03] * len(due),  # Just above the frame, whose height is 1.
            "|",
            color=COLOURS[kind],
            transform=axes.get_xaxis_transform(),
            label=f"{len(due):,} failed: {kind.replace('_', ' ')}",
            clip_on=False,
        )
    axes.set(xlabel="due after (s)", ylabel="latency (ms)", ylim=(0, None), xlim=(0, None))
    axes.legend(loc="upper right", framealpha=1)


def _draw_distribution(axes: Any, latencies: list[float]) -> None:
    """Draw a histogram; the slowest few are only counted, for they would squeeze all others into one bar."""
    axes.set(xlabel="latency (ms)", ylabel="requests")
    if not latencies:
        return
    ordered = sorted(latencies)
    high = percentile(ordered, 99.5)
    axes.hist([value for value in ordered if value <= high], bins=80, color=COLOURS["answered"])
    for percent, style in ((50, "-"), (90, "--"), (99, ":")):
        value = percentile(ordered, percent)
        axes.axvline(value, color="black", linestyle=style, linewidth=1, label=f"p{percent} {value:.2f} ms")
    slower = sum(value > high for value in ordered)
    if slower:
        axes.plot([], [], " ", label=f"{slower:,} slower, up to {ordered[-1]:.1f} ms")
    axes.legend(loc="upper right", framealpha=1)
