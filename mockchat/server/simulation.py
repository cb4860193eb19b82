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
from typing import NamedTuple

from mockchat.core.program import ProgramError

FAULT_HEADER = "X-Mockchat-Fault"
DISCONNECT, STALL = "disconnect", "stall"
FAULTS = f"a status from 400 to 599, {DISCONNECT} or {STALL}"
BY_HEADER = "header"


class Fault(NamedTuple):
    """How an answer fails: with a status, or `DISCONNECT` or `STALL`; and when: the `first` times, or at a `rate`.

    The kind `BY_HEADER` is no failure: it lets each request ask for one.
    """

    kind: str
    first: int = 0
    rate: float = 0.0


class Simulation:
    """What the server simulates. Raises `ProgramError` for options that contradict each other.

    `ttft_ms` (time to first token) and `itl_ms` (inter-token latency) are in milliseconds; `jitter` is the coefficient
    of variation of both, log-normal. `faults` are what `read_fault` returns.
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
        self.by_header = any(fault.kind == BY_HEADER for fault in faults)
        self._faults = [fault for fault in faults if fault.kind != BY_HEADER]
        if jitter and not self.timed:
            raise ProgramError(
                "jitter varies the time to first token and the inter-token latency: give one of them too"
            )
        total = sum(fault.rate for fault in self._faults)
        if total > 1 + 1e-9:  # A sum of decimal fractions may be a little more.
            raise ProgramError(f"the rates of the faults are {total:g} in sum, which is more than 1")
        self._random_seed = random_seed
        self._attempts: Counter[str] = Counter()

    def begin(self, history: bytes | None) -> tuple[random.Random, str | None]:
        """Count an attempt at a history: its random generator, and how it fails or None.

        `history` is in wire form; None stands for all that are not recorded.
        """
        name = "" if history is None else hashlib.sha256(history).hexdigest()
        attempt = self._attempts[name]
        self._attempts[name] += 1
        seed = self._random_seed
        chance = random.Random(random.random() if seed is None else f"{seed} {name} {attempt}")
        drawn = chance.random()  # Drawn even without faults, which must not change the other choices.
        for kind, first, rate in self._faults:
            attempt -= first
            drawn -= rate
            if attempt < 0 or drawn < 0:
                return chance, kind
        return chance, None

    def moments(self, start: float, chance: random.Random) -> Iterator[float]:
        """The due times of an answer's pieces, without end; `start` is when it was asked for, in seconds."""
        due = start + self._ttft * self._factor(chance)
        while True:
            yield due
            due += self._itl * self._factor(chance)

    def _factor(self, chance: random.Random) -> float:
        return chance.lognormvariate(self._mu, self._sigma) if self._sigma else 1.0


def is_fault(kind: str) -> bool:
    """Whether this is one of `FAULTS`."""
    return kind in (DISCONNECT, STALL) or re.fullmatch("[45][0-9]{2}", kind) is not None


def read_fault(text: str) -> Fault:
    """Parse a fault: `KIND=RATE` (from 0 to 1), `KIND=first:N` (of each history), or `header`.

    Raises `ArgumentTypeError` for any other text.
    """
    if text == BY_HEADER:
        return Fault(BY_HEADER)
    kind, _, how = text.partition("=")
    if not is_fault(kind):
        raise ArgumentTypeError(f"{text!r} is no fault: give KIND=RATE, KIND=first:N or header, where KIND is {FAULTS}")
    if times := re.fullmatch("first:([1-9][0-9]{0,8})", how):
        return Fault(kind, first=int(times[1]))
    try:
        rate = float(how)
    except ValueError:
        rate = 0.0
    if 0 < rate <= 1:
        return Fault(kind, rate=rate)
    raise ArgumentTypeError(f"{text!r} is no fault: give {kind}=RATE, above 0 and up to 1, or {kind}=first:N, from 1")
