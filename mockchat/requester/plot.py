"""A run as a picture, drawn with matplotlib (the extra `plot`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mockchat.requester.report import MS, percentile, significant
from mockchat.requester.result import Result

SUFFIXES = (".png", ".svg", ".pdf")
FAILURE_COLOURS = {"not_found": "#e69f00", "mismatched": "#cc3311", "error": "#882255"}


def draw(result: Result, title: str, path: Path) -> None:
    """Write the picture, in the format of the path's suffix.

    Top: the latency of each verified answer at the time when its request was due, the time to first token of streams,
    and the failures. Below: the distributions of these times and of the inter-token latency, with percentiles. Raises
    `OSError` if the file can't be written.
    """
    from matplotlib.figure import Figure

    distributed = [
        ("latency (ms)", "requests", result.latencies),
        ("time to first token (ms)", "requests", result.first_tokens),
        ("inter-token latency (ms)", "tokens", result.gaps),
    ]
    distributed = [each for each in distributed if each[2]]
    count = len(distributed)
    figure = Figure(figsize=(11, 3.5 + 2.5 * count), layout="constrained")
    figure.suptitle(title, parse_math=False)
    axes = figure.subplots(1 + count, squeeze=False, height_ratios=[3, *[2] * count])[:, 0]
    _draw_over_time(axes[0], result)
    for number, (each, (name, counted, seconds)) in enumerate(zip(axes[1:], distributed, strict=True)):
        each.set(xlabel=name, ylabel=counted)
        _draw_distribution(each, [MS * value for value in seconds], f"C{number}")
    for each in axes:
        if each.get_legend_handles_labels()[0]:
            each.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, markerscale=2)
    figure.savefig(path)


def _draw_over_time(axes: Any, result: Result) -> None:
    verified = f"{len(result.latencies):,} verified"
    for label, seconds in ((verified, result.latencies), ("their first tokens", result.first_tokens)):
        if seconds:
            times = [MS * value for value in seconds]
            axes.plot(result.due, times, ".", markersize=2, label=label, rasterized=True)
    for kind, colour in FAILURE_COLOURS.items():
        due = [failure.at for failure in result.failures if failure.problem.kind == kind]
        if due:  # Drawn just above the frame, whose height is 1.
            label, height = f"{len(due):,} failed: {kind.replace('_', ' ')}", axes.get_xaxis_transform()
            axes.plot(due, [1.03] * len(due), "|", color=colour, transform=height, label=label, clip_on=False)
    axes.set(xlabel="due after (s)", ylabel="latency (ms)", ylim=(0, None), xlim=(0, None))


def _draw_distribution(axes: Any, values: Sequence[float], colour: str) -> None:
    """Draw a histogram. The slowest 0.5 % are only counted: they would squeeze all others into one bar."""
    ordered = sorted(values)
    high = percentile(ordered, 99.5)
    axes.hist([value for value in ordered if value <= high], bins=80, color=colour)
    for percent, style in ((50, "-"), (90, "--"), (99, ":")):
        value = percentile(ordered, percent)
        axes.axvline(value, color="black", linestyle=style, linewidth=1, label=f"p{percent} {significant(value)} ms")
    slower = sum(value > high for value in ordered)
    if slower:
        axes.plot([], [], " ", label=f"{slower:,} slower, up to {significant(ordered[-1])} ms")
