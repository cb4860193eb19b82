"""A run as a picture, drawn with matplotlib (the extra `plot`)."""

from pathlib import Path

from mockchat.requester.report import percentile
from mockchat.requester.run import Result

SUFFIXES = (".png", ".svg", ".pdf")
POINTS = 20_000  # More of them only make the file larger.
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
    latencies = [1000 * seconds for seconds in result.latencies]
    every = max(1, len(latencies) // POINTS)
    over_time.plot(
        result.due[::every], latencies[::every], ".", markersize=2, color=COLOURS["answered"], label="answered"
    )
    for kind in result.counts:
        due = [failure.at for failure in result.failures if failure.problem.kind == kind]
        over_time.plot(
            due,
            [1.03] * len(due),
            "|",
            color=COLOURS[kind],
            transform=over_time.get_xaxis_transform(),
            label=f"{len(due):,} failed: {kind.replace('_', ' ')}",
            clip_on=False,
        )
    over_time.set(xlabel="due after (s)", ylabel="latency (ms)", ylim=(0, None), xlim=(0, None))
    over_time.legend(loc="upper right", framealpha=1)
    ordered = sorted(latencies)
    distribution.set(xlabel="latency (ms)", ylabel="requests")
    if ordered:
        high = percentile(ordered, 99.5)
        distribution.hist([value for value in ordered if value <= high], bins=80, color=COLOURS["answered"])
        for percent, style in ((50, "-"), (90, "--"), (99, ":")):
            value = percentile(ordered, percent)
            label = f"p{percent} {value:.2f} ms"
            distribution.axvline(value, color="black", linestyle=style, linewidth=1, label=label)
        slower = sum(value > high for value in ordered)
        if slower:
            distribution.plot([], [], " ", label=f"{slower:,} slower, up to {ordered[-1]:.1f} ms")
        distribution.legend(loc="upper right", framealpha=1)
    for axes in (over_time, distribution):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
