"""Whether and when to retry a request. No I/O.

Statuses and backoff follow `_base_client.py` of https://github.com/openai/openai-python.
"""

import random
from contextlib import suppress

import aiohttp
from aiohttp.http import HttpProcessingError

from mockchat.core.answer import BROKE_OFF
from mockchat.requester.exchange import Answer
from mockchat.requester.verify import Problem

FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0  # seconds
LONGEST_ASKED = 60.0  # seconds: the limit for `Retry-After`


def wait(attempts: int, ended: Answer | Exception, problem: Problem) -> float | None:
    """The seconds to wait after an attempt that ended so; None if it is final."""
    if isinstance(ended, Exception):  # A `ValueError` is about the URL, a header or a certificate.
        of_network = (aiohttp.ClientError, HttpProcessingError, OSError)
        passing = isinstance(ended, of_network) and not isinstance(ended, ValueError)
    else:
        broke_off = problem.cause.startswith(BROKE_OFF)
        passing = broke_off or ended.status in (408, 409, 429) or ended.status >= 500
        with suppress(LookupError, ValueError):
            if passing and 0 < (asked := float(ended.headers["Retry-After"])) <= LONGEST_ASKED:
                return asked
    if not passing:
        return None
    return min(FIRST_WAIT * 2.0 ** min(attempts - 1, 100), LONGEST_WAIT) * random.uniform(0.75, 1)
