"""What came of a run, counted and timed; and the results of several processes as one."""

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import NamedTuple

from mockchat.requester.verify import Problem


class Failure(NamedTuple):
    """A request that was not answered as recorded.

    `at` is when it was due, in seconds from the start of the run, and `latency` how many seconds later it had failed.
    """

    conversation_id: str
    message_index: int
    at: float
    latency: float
    problem: Problem


def _seconds() -> "array[float]":
    return array("d")


@dataclass(slots=True)
class Result:
    """What came of a run: times are in seconds, sizes in bytes of bodies, latencies those of the verified answers.

    `due` has, for each latency, the moment from which it counts, from the start of the run. Of streams, `first_tokens`
    are the times to the first token, one for each latency, and `gaps` those between tokens that did not arrive
    together. `counts` are the failures' kinds. `retried` has the number of requests by that of their attempts, where it
    was more than one.

    `elapsed` is the whole time, `sending` that in which requests were sent (see `Schedule.sending`). `in_flight` is how
    long each request was in flight, all together, and `most_in_flight` the most that were so at once. `cpu` is the time
    that the process computed, or the processes did together; `lost` says how those died of which nothing else is known.
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
    sending: float = 0.0
    in_flight: float = 0.0
    most_in_flight: int = 0
    cpu: float = 0.0
    interrupted: bool = False
    lost: list[str] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """The number of requests that ended, one way or the other."""
        return self.passed + len(self.failures)

    @property
    def attempts(self) -> dict[int, int]:
        """The number of requests by that of their attempts, the fewest first."""
        counts = {1: self.requests - self.retried.total(), **dict(sorted(self.retried.items()))}
        return {number: count for number, count in counts.items() if count}

    @property
    def rate(self) -> float:
        """Requests a second, while they were sent."""
        return self.requests / self.sending if self.sending else 0.0

    @property
    def drain(self) -> float:
        """The seconds in which nothing more was sent, and the last answers were waited for."""
        return max(0.0, self.elapsed - self.sending)

    @property
    def mean_in_flight(self) -> float:
        """How many requests were in flight on average, over the whole time."""
        return min(self.in_flight / self.elapsed, self.most_in_flight) if self.elapsed else 0.0


def merged(results: Sequence[Result]) -> Result:
    """The results as if one process had asked for everything: `elapsed` and `sending` are the longest.

    Each process may have had its most in flight at another moment: their sum is no less than the most of all together.
    """
    whole = Result()
    for result in results:
        for each in fields(Result):
            setattr(whole, each.name, getattr(whole, each.name) + getattr(result, each.name))
    whole.elapsed = max((result.elapsed for result in results), default=0.0)
    whole.sending = max((result.sending for result in results), default=0.0)
    whole.failures.sort(key=lambda failure: failure.at)
    return whole
