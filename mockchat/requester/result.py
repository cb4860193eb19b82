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
    """The result of a run. Times are in seconds, sizes in bytes of bodies."""

    passed: int = 0
    failures: list[Failure] = field(default_factory=list)
    attempts: Counter[int] = field(default_factory=Counter)  # Requests by their number of attempts.
    bytes_sent: int = 0
    bytes_received: int = 0
    latencies: "array[float]" = field(default_factory=lambda: array("d"))  # Those of verified answers.
    first_tokens: "array[float]" = field(default_factory=lambda: array("d"))  # The time to each stream's first token.
    gaps: "array[float]" = field(default_factory=lambda: array("d"))  # Between tokens that did not arrive together.
    elapsed: float = 0.0
    sending: float = 0.0  # See `Schedule.sending`.
    in_flight: float = 0.0  # The sum of the times that requests were in flight.
    most_in_flight: int = 0
    cpu: float = 0.0  # Of all processes.
    interrupted: bool = False
    lost: list[str] = field(default_factory=list)  # How each process that sent no result ended.

    @property
    def requests(self) -> int:
        return self.passed + len(self.failures)

    @property
    def counts(self) -> Counter[str]:
        return Counter(failure.problem.kind for failure in self.failures)

    @property
    def rate(self) -> float:
        return self.requests / self.sending if self.sending else 0.0

    @property
    def drain(self) -> float:
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
