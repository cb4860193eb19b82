"""Simulated timing and faults. No I/O, no clock.

Each request has a random generator of its own. With `random_seed`, that depends on the history and the attempt alone:
the same requests are slow and fail in whatever order they arrive.
"""

import hashlib
import math
import random
import re
from argparse import ArgumentTypeError
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from mockchat.core.program import ProgramError

FAULT_HEADER = "X-Mockchat-Fault"
DISCONNECT, STALL = "disconnect", "stall"
FAULTS = f"a status from 400 to 599, {DISCONNECT} or {STALL}"
BY_HEADER = "header"


class Fault(NamedTuple):
    """How an answer fails: with a status, or `DISCONNECT` or `STALL`; and when: the `first` times, or at a `rate`.

    The kind `BY_HEADER` never happens: it lets each request ask for a fault.
    """

    kind: str
    first: int = 0
    rate: float = 0.0


class Simulation:
    """Time to first token (`ttft_ms`), inter-token latency (`itl_ms`) and faults.

    `jitter` is the coefficient of variation of both times. Raises `ProgramError` where options contradict each other.
    """

    def __init__(
        self,
        *,
        ttft_ms: float = 0.0,
        itl_ms: float = 0.0,
        jitter: float = 0.0,
        faults: Sequence[Fault] = (),
        random_seed: int | None = None,
    ) -> None:
        self._ttft, self._itl = ttft_ms / 1000, itl_ms / 1000
        self.timed = bool(ttft_ms or itl_ms)
        # A log-normal factor of mean 1: https://en.wikipedia.org/wiki/Log-normal_distribution
        self._sigma = math.sqrt(math.log1p(jitter**2))
        self._mu = -(self._sigma**2) / 2
        self.by_header = Fault(BY_HEADER) in faults
        self._faults = faults
        if jitter and not self.timed:
            raise ProgramError("jitter varies the time to first token and the inter-token latency: give one of them")
        total = sum(fault.rate for fault in faults)
        if total > 1 + 1e-9:  # A sum of decimal fractions may be a little more.
            raise ProgramError(f"the rates of the faults are {total:g} in sum, which is more than 1")
        self._random_seed = random_seed
        self._attempts: Counter[str] = Counter()

    def begin(self, history: bytes) -> tuple[random.Random, str | None]:
        """Count an attempt at a history in wire form. Returns its random generator, and its kind of fault or None."""
        name = hashlib.sha256(history).hexdigest()
        attempt = self._attempts[name]
        self._attempts[name] += 1
        seed = self._random_seed
        chance = random.Random(random.random() if seed is None else f"{seed} {name} {attempt}")
        drawn = chance.random()  # Drawn even without faults: adding a fault must not change the other draws.
        for kind, first, rate in self._faults:
            attempt -= first
            drawn -= rate
            if attempt < 0 or drawn < 0:
                return chance, kind
        return chance, None

    def moments(self, start: float, chance: random.Random) -> Iterator[float]:
        """The due times of an answer's pieces, without end; `start` is when it was asked for, in seconds."""
        due, wait = start, self._ttft
        while True:
            due += wait * (chance.lognormvariate(self._mu, self._sigma) if self._sigma else 1.0)
            yield due
            wait = self._itl


def is_fault(kind: str) -> bool:
    return kind in (DISCONNECT, STALL) or re.fullmatch("[45][0-9]{2}", kind) is not None


def read_fault(text: str) -> Fault:
    """Parse `KIND=RATE`, `KIND=first:N` (of each history), or `header`. Raises `ArgumentTypeError`."""
    if text == BY_HEADER:
        return Fault(BY_HEADER)
    kind, _, how = text.partition("=")
    if is_fault(kind):
        if re.fullmatch("first:[1-9][0-9]{0,8}", how):
            return Fault(kind, first=int(how.removeprefix("first:")))
        with suppress(ValueError):
            if 0 < float(how) <= 1:
                return Fault(kind, rate=float(how))
    forms = f"KIND=RATE (above 0, up to 1), KIND=first:N (from 1) or {BY_HEADER}"
    raise ArgumentTypeError(f"{text!r} is not a fault: give {forms}; KIND is {FAULTS}")
