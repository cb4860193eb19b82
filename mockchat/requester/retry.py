"""Whether and when to retry a request. No I/O.

Statuses, backoff and headers follow `_base_client.py` of https://github.com/openai/openai-python; for `Retry-After` see
https://www.rfc-editor.org/rfc/rfc9110#field.retry-after.
"""

import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

import aiohttp

FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0  # seconds
LONGEST_ASKED = 60.0  # seconds: the limit for `Retry-After`


def wait(attempts: int, ended: int | Exception, headers: Mapping[str, str]) -> float | None:
    """The seconds to wait after an attempt that ended with a status or an error; None if it is final."""
    if not (_is_passing(ended) if isinstance(ended, Exception) else _is_invited(ended, headers)):
        return None
    asked = _asked(headers)
    if asked is not None and 0 < asked <= LONGEST_ASKED:
        return asked
    return min(FIRST_WAIT * 2.0 ** min(attempts - 1, 100), LONGEST_WAIT) * random.uniform(0.75, 1)


def _is_passing(error: Exception) -> bool:
    """True for network errors and timeouts. A `ValueError` is about the URL, a header or a certificate."""
    return isinstance(error, (aiohttp.ClientError, OSError)) and not isinstance(error, ValueError)


def _is_invited(status: int, headers: Mapping[str, str]) -> bool:
    if status in (200, 404):  # An answer to verify.
        return False
    said = headers.get("x-should-retry")
    return said == "true" or (said != "false" and (status in (408, 409, 429) or status >= 500))


def _asked(headers: Mapping[str, str]) -> float | None:
    """The seconds of `Retry-After`, if it is readable."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1)):
        if name in headers:
            try:
                return float(headers[name]) * unit
            except ValueError:
                pass
    try:
        return parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time()
    except (LookupError, ValueError, OverflowError, OSError):
        return None
