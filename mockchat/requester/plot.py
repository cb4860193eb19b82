"""A run as a picture, drawn with matplotlib (the extra `plot`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mockchat.requester.report import MS, percentile, significant
from mockchat.requester.result import Result

SUFFIXES = (".png", ".svg", ".pdf")
POINTS = 20_000  # More of them only make the file larger.
COLOURS = {
    "answer": "#4878a8",
    "first token": "#6acc65",
    "inter-token": "#956cb4",
    "not_found": "#e69f00",
    "mismatched": "#cc3311",
    "error": "#882255",
}


def draw(result: Result, title: str, path: Path) -> None:
    """Write the picture, in the format of the path's suffix.

    Top: the latency of each verified answer at the time when its request was due, the time to first token of streams,
    and the failures. Below: the distributions of these times and of the inter-token latency, with percentiles. Raises
    `OSError` if the file can't be written.
    """
    from matplotlib.figure import Figure

    distributed = [("answer", "latency (ms)", "requests", result.latencies)]
    if result.first_tokens:
        distributed.append(("first token", "time to first token (ms)", "requests", result.first_tokens))
    if result.gaps:
        distributed.append(("inter-token", "inter-token latency (ms)", "tokens", result.gaps))
    figure = Figure(figsize=(11, 3.5 + 2.5 * len(distributed)), layout="constrained")
    figure.suptitle(title, parse_math=False)
    over_time, *distributions = figure.subplots(1 + len(distributed), 1, height_ratios=[3, *[2] * len(distributed)])
    _draw_over_time(over_time, result)
    for axes, (what, name, counted, seconds) in zip(distributions, distributed, strict=True):
        axes.set(xlabel=name, ylabel=counted)
        _draw_distribution(axes, [MS * value for value in seconds], COLOURS[what])
    for axes in (over_time, *distributions):
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, markerscale=2)
    figure.savefig(path, dpi=100)


def _draw_over_time(axes: Any, result: Result) -> None:
    every = max(1, len(result.latencies) // POINTS)
    verified = f"{len(result.latencies):,} verified"
    for what, label, seconds in (
        ("answer", verified, result.latencies),
        ("first token", "their first tokens", result.first_tokens),
    ):
        if seconds:
            times = [MS * value for value in seconds[::every]]
            axes.plot(result.due[::every], times, ".", markersize=2, color=COLOURS[what], label=label)
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


def _draw_distribution(axes: Any, values: Sequence[float], colour: str) -> None:
    """Draw a histogram. The slowest 0.5 % are only counted: they would squeeze all others into one bar."""
    if not values:
        return
    ordered = sorted(values)
    high = percentile(ordered, 99.5)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.hist([value for value in ordered if value <= high], bins=80, color=colour)
    for percent, style in ((50, "-"), (90, "--"), (99, ":")):
        value = percentile(ordered, percent)
        axes.axvline(value, color="black", linestyle=style, linewidth=1, label=f"p{percent} {significant(value)} ms")
    slower = sum(value > high for value in ordered)
    if slower:
        axes.plot([], [], " ", label=f"{slower:,} slower, up to {significant(ordered[-1])} ms")
