"""The states of a connection, and how long it may be in each."""

from enum import Enum, auto

REQUEST_TIMEOUT = 60.0  # seconds, for a request to arrive; for a client to read anything of its answer
_KEEP_ALIVE_TIMEOUT = 3630.0  # seconds: longer than what proxies and load balancers allow
_LINGER_TIMEOUT = 10.0  # seconds


class State(Enum):
    """What a connection is doing."""

    NEW = auto()  # No request has begun to arrive.
    IDLE = auto()  # Between two requests. A request that is answered at once leaves it here.
    RECEIVING = auto()  # A part of a request has arrived.
    ANSWERING = auto()  # An answer waits for its next part, or for the client to read; requests are queued.
    STALLED = auto()  # Nothing more is sent (a simulated fault), until the client disconnects.
    LINGERING = auto()  # The last answer is written. Input is discarded until the client disconnects.
    CLOSED = auto()


BUSY = (State.RECEIVING, State.ANSWERING)
DONE = (State.STALLED, State.LINGERING, State.CLOSED)  # Nothing more is read.


def time_limits(request_timeout: float) -> dict[State, float]:
    """The seconds that a connection may be in a state; there is no limit for the others."""
    return {
        State.NEW: request_timeout,
        State.IDLE: _KEEP_ALIVE_TIMEOUT,
        State.RECEIVING: request_timeout,
        State.LINGERING: _LINGER_TIMEOUT,
    }
