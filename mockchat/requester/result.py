"""The counts and times of a run, and the merged results of several processes."""

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import NamedTuple

from mockchat.core.text import excerpt
from mockchat.requester.verify import Problem


class Failure(NamedTuple):
    """A failed request: due `at` seconds after the start, failed `latency` seconds later."""

    conversation_id: str
    message_index: int
    at: float
    latency: float
    problem: Problem


def place(conversation_id: str, message_index: int) -> str:
    """The place of a message, on one printable line."""
    return f"conversation {excerpt(conversation_id)}, message {message_index}"


@dataclass(slots=True)
class Result:
    """The result of a run. Times are in seconds, sizes in bytes of bodies, latencies those of verified answers.

    Of streams, `first_tokens` has the time to the first token of each answer, `gaps` the times between tokens that did
    not arrive together. `attempts` are requests by their number of attempts.

    `elapsed` is the whole time, `sending` that in which requests were sent (see `Schedule.sending`). `in_flight` is the
    sum of the times that requests were in flight, `most_in_flight` the most at once. `cpu` is the CPU time of all
    processes; `lost` says how those died that sent no result.
    """

    passed: int = 0
    failures: list[Failure] = field(default_factory=list)
    attempts: Counter[int] = field(default_factory=Counter)
    bytes_sent: int = 0
    bytes_received: int = 0
    latencies: "array[float]" = field(default_factory=lambda: array("d"))
    first_tokens: "array[float]" = field(default_factory=lambda: array("d"))
    gaps: "array[float]" = field(default_factory=lambda: array("d"))
    elapsed: float = 0.0
    sending: float = 0.0
    in_flight: float = 0.0
    most_in_flight: int = 0
    cpu: float = 0.0
    interrupted: bool = False
    lost: list[str] = field(default_factory=list)

    @property
    def requests(self) -> int:
        return self.passed + len(self.failures)

    @property
    def counts(self) -> Counter[str]:
        """The number of failures by kind."""
        return Counter(failure.problem.kind for failure in self.failures)

    @property
    def rate(self) -> float:
        """Requests a second of `sending`."""
        return self.requests / self.sending if self.sending else 0.0

    @property
    def drain(self) -> float:
        """The seconds after the last request was sent."""
        return max(0.0, self.elapsed - self.sending)

    @property
    def mean_in_flight(self) -> float:
        return min(self.in_flight / self.elapsed, self.most_in_flight) if self.elapsed else 0.0


def merged(results: Sequence[Result]) -> Result:
    """The results as one: sums, but the longest `elapsed` and `sending`.

    `most_in_flight` is an upper bound: processes may reach theirs at different moments.
    """
    whole = Result()
    for result in results:
        for each in fields(Result):
            setattr(whole, each.name, getattr(whole, each.name) + getattr(result, each.name))
    whole.elapsed = max((result.elapsed for result in results), default=0.0)
    whole.sending = max((result.sending for result in results), default=0.0)
    whole.failures.sort(key=lambda failure: failure.at)
    return whole
