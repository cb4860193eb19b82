"""A run as a picture, drawn with matplotlib (the extra `plot`)."""

from pathlib import Path

from mockchat.requester.report import MS, latency_ms, significant
from mockchat.requester.result import Result

SUFFIXES = (".png", ".svg", ".pdf")


def draw(result: Result, title: str, path: Path) -> None:
    """Write the picture, in the format of the path's suffix. Raises `OSError`.

    Top: the times of each request at the moment when it was due, and the failures. Below: how many of these times, and
    of those between tokens, were no longer than so many milliseconds.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    figure.suptitle(title, parse_math=False)
    over_time, distribution = figure.subplots(2)
    of_requests = {"latency": result.latencies, "time to first token": result.first_tokens}
    for name, seconds in {**of_requests, "inter-token latency": result.gaps}.items():
        if not seconds:
            continue
        times = [MS * value for value in seconds]
        percentiles = ", ".join(
            f"{key} {significant(value)}" for key, value in latency_ms(seconds).items() if key[0] == "p"
        )
        distribution.ecdf(times, label=f"{name}: {percentiles} ms")
        if name in of_requests:
            over_time.plot(result.due, times, ".", markersize=2, label=name, rasterized=True)
    if result.failures:  # Drawn just above the frame, whose height is 1.
        at, height = [failure.at for failure in result.failures], over_time.get_xaxis_transform()
        over_time.plot(at, [1.03] * len(at), "|", color="red", transform=height, label="failures", clip_on=False)
    over_time.set(xlabel="due after (s)", ylabel="ms", ylim=(0, None), xlim=(0, None))
    distribution.set(xlabel="ms", ylabel="share", xscale="log")
    for axes in (over_time, distribution):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, markerscale=2)
    figure.savefig(path)
