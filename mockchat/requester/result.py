"""What came of a run, counted and timed; and the results of several processes as one."""

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import NamedTuple

from mockchat.requester.verify import Problem


class Failure(NamedTuple):
    """A request that was not answered as recorded; `at` is when it was due, in seconds from the start of the run."""

    conversation_id: str
    message_index: int
    at: float
    problem: Problem


def _seconds() -> "array[float]":
    return array("d")


@dataclass(slots=True)
class Result:
    """What came of a run: times are in seconds, sizes in bytes of bodies, latencies those of the answered requests.

    `due` has, for each latency, the moment from which it counts, from the start of the run. Of streams, `first_tokens`
    are the times to the first token and `gaps` those between tokens that did not arrive together. `counts` are the
    failures' kinds. `retried` has the number of requests by that of their attempts, where it was more than one. `cpu`
    is the time that the process computed, or the processes did together; `lost` says how those died of which nothing
    else is known.
    """

    passed: int = 0
    failures: list[Failure] = field(default_factory=list)
    counts: "Counter[str]" = field(default_factory=Counter)
    retried: "Counter[int]" = field(default_factory=Counter)
    bytes_sent: int = 0
    bytes_received: int = 0
    due: "array[float]" = field(default_factory=_seconds)
    latencies: "array[float]" = field(default_factory=_seconds)
    first_tokens: "array[float]" = field(default_factory=_seconds)
    gaps: "array[float]" = field(default_factory=_seconds)
    elapsed: float = 0.0
    cpu: float = 0.0
    interrupted: bool = False
    lost: list[str] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """The number of requests that ended, one way or the other."""
        return self.passed + len(self.failures)


def merged(results: Sequence[Result]) -> Result:
    """The results as if one process had asked for everything; `elapsed` is the longest."""
    whole = Result()
    for result in results:
        for each in fields(Result):
            setattr(whole, each.name, getattr(whole, each.name) + getattr(result, each.name))
    whole.elapsed = max((result.elapsed for result in results), default=0.0)
    whole.failures.sort(key=lambda failure: failure.at)
    return whole
