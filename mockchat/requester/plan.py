"""The requests of a run: their bodies, their order, and when each is due. No I/O.

Requests follow https://platform.openai.com/docs/api-reference/chat/create.
"""

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from mockchat.core import matching, wire
from mockchat.core.entries import Conversation
from mockchat.core.index import Reply, ResponseIndex


class Place(NamedTuple):
    """The place of a recorded reply: its conversation, its message's number, and its start in the recording."""

    conversation: Conversation
    number: int
    start: int

    @property
    def history(self) -> bytes:
        """The messages before the reply, in wire form."""
        return self.conversation.recording[: self.start - len(wire.NEXT)] if self.start else b""

    @property
    def reply(self) -> Reply:
        message = wire.first(self.conversation.recording, self.start)
        return Reply(message, b"", self.conversation.details.get(self.number))


@dataclass(slots=True)
class Expected:
    """The replies that are right: first the one at `place`; then all with its history, looked up when needed."""

    place: Place
    index: ResponseIndex
    parameters: Mapping[str, Any]

    def __iter__(self) -> Iterator[Reply]:
        yield self.place.reply
        index = self.index
        others = index.replies(index.compared(self.place.history))
        yield from matching.matching(others, self.parameters, index.match) if index.match else others


class Question(NamedTuple):
    """A request: the place of the reply that it asks for, its body, and the replies that are right."""

    place: Place
    body: bytes
    expected: Iterable[Reply]


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """The load: by default everything once, in order, as fast as `concurrency` requests in flight allow."""

    concurrency: int
    keep_going: bool = False  # Else the first failure ends the run.
    stream: bool = False
    limit: int | None = None  # requests, of all processes
    rate: float | None = None  # requests a second
    duration: float | None = None  # seconds, in which everything is repeated
    shuffle: bool = False
    random_seed: int = field(default_factory=lambda: random.getrandbits(32))  # The same for all processes.
    timeout: float = 60.0  # seconds, of an attempt
    retries: int = 0  # further attempts of a request
    processes: int = 1  # that share all this


def places(conversations: Sequence[Conversation]) -> Iterator[Place]:
    for conversation in conversations:
        for number, start in conversation.places():
            yield Place(conversation, number, start)


def rounds(conversations: Sequence[Conversation], load: Load) -> Iterator[Place]:
    """The places in the order in which they are asked for: once, or endlessly to fill a duration."""
    chance = random.Random(load.random_seed)
    while True:
        asked: Iterable[Place] = places(conversations)
        if load.shuffle:
            asked = list(asked)
            chance.shuffle(asked)
        yield from asked
        if load.duration is None:
            return


def dealt(conversations: Sequence[Conversation], load: Load, process: int) -> Iterator[Place]:
    """The places that a process asks for: of n processes, every n-th of the first `limit`."""
    return islice(rounds(conversations, load), process, load.limit, load.processes)


def questions(asked: Iterator[Place], index: ResponseIndex, model: str | None, stream: bool) -> Iterator[Question]:
    """The request for each place, with `model` and `stream` if given, and parameters of `index.match` as recorded."""
    opening, parameters = b'{"messages":' + wire.OPENING, {"model": model}
    after = _after_messages(parameters, stream)
    for place in asked:
        if index.match:
            recorded = matching.of_reply(place.reply)
            matched = {} if recorded is None else {name: recorded.get(name) for name in index.match}
            parameters = {"model": model, **matched}
            after = _after_messages(parameters, stream)
        conversation, number, start = place
        history: bytes | memoryview
        if conversation.details:
            history = wire.join(conversation.history(number))
        else:  # Bodies are long: this copies each of their bytes once.
            history = memoryview(conversation.recording)[: start - len(wire.NEXT)]
        body = b"".join((opening, history, wire.CLOSING, after)) if start else b'{"messages":[]%b' % after
        yield Question(place, body, Expected(place, index, parameters))


def _after_messages(parameters: Mapping[str, Any], stream: bool) -> bytes:
    sent = {name: value for name, value in {**parameters, "stream": stream or None}.items() if value is not None}
    return b"," + wire.json_of(sent)[1:] if sent else b"}"


class Schedule:
    """The next request, and when it is due. Moments are seconds of any one clock.

    Without a rate, everything is due from the start. At a rate, request n is due n / rate seconds after the start;
    processes take turns at the numbers.
    """

    def __init__(self, asked: Iterator[Question], load: Load, begin: Callable[[], float], process: int = 0) -> None:
        self._asked = asked
        self._next = next(asked, None)  # Taken early: shuffling takes time, and the end is known before it is due.
        self._rate = load.rate
        self._number, self._step = process, load.processes
        self._duration = math.inf if load.duration is None else load.duration
        self.started = self._last_sent = begin()
        self.is_over = False  # No request is left, or no time.

    def due(self) -> float:
        return self.started + self._number / self._rate if self._rate else self.started

    def take(self, now: float) -> tuple[Question, float] | None:
        """The next question, and the moment from which its latency counts; None if none is due."""
        due = self.due() if self._rate else now
        if self._next is None or max(due, now) >= self.started + self._duration:
            self.is_over = True
        elif due <= now:
            question, self._next = self._next, next(self._asked, None)
            self._number += self._step
            self._last_sent = now
            return question, due
        return None

    def sending(self, elapsed: float) -> float:
        """Seconds spent sending, of `elapsed`.

        At full speed: all of it, up to the duration. At a rate: until the last request, if all were sent; but n / rate
        at least, for each of n requests takes 1 / rate.
        """
        sending = min(elapsed, self._duration)
        if not self._rate:
            return sending
        if self.is_over and self._next is None:
            sending = self._last_sent - self.started
        return max(sending, (self._number - self._step + 1) / self._rate)
