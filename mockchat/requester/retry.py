"""Whether to try a request again, and when: as OpenAI's SDKs do. No I/O.

Follows `_base_client.py` of https://github.com/openai/openai-python and, for `Retry-After`,
https://www.rfc-editor.org/rfc/rfc9110#field.retry-after.
"""

import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

import aiohttp

# In seconds; the last one is the longest wait that a server may ask for.
FIRST_WAIT = 0.5
LONGEST_WAIT = 8.0
LONGEST_ASKED = 60.0


def wait(attempts: int, ended: int | Exception, headers: Mapping[str, str]) -> float | None:
    """The seconds to wait after so many attempts, the last of which ended so: with a status and headers, or an error.

    None where another attempt is not worth it: the answer, or what is wrong, would be the same.
    """
    if not (_is_passing(ended) if isinstance(ended, Exception) else _is_invited(ended, headers)):
        return None
    asked = _asked(headers)
    if asked is not None and 0 < asked <= LONGEST_ASKED:
        return asked
    return min(FIRST_WAIT * 2.0 ** min(attempts - 1, 100), LONGEST_WAIT) * random.uniform(0.75, 1)


def _is_passing(error: Exception) -> bool:
    """Whether the network or the time limit is to blame. A `ValueError` is about the URL, a header or a certificate."""
    return isinstance(error, (aiohttp.ClientError, OSError)) and not isinstance(error, ValueError)


def _is_invited(status: int, headers: Mapping[str, str]) -> bool:
    if status in (200, 404):  # Whatever else it says, the answer is there, to be verified.
        return False
    said = headers.get("x-should-retry")
    return said == "true" or (said != "false" and (status in (408, 409, 429) or status >= 500))


def _asked(headers: Mapping[str, str]) -> float | None:
    """The seconds that the server asks to wait, if it does so in a way that can be read."""
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
