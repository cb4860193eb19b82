"""A locustfile: users replay recorded conversations turn by turn and verify each answer.

`locust -f mockchat/requester/locustfile.py`, see https://docs.locust.io. locust imports this file before it forks and
before it reads options: the recordings are read once for all processes, and the environment has the options.
"""

import os
import random
import sys
from contextlib import redirect_stdout, suppress

from locust import FastHttpUser, task
from locust.contrib.fasthttp import FAILURE_EXCEPTIONS

from mockchat.core import recordings
from mockchat.core.answer import endpoint
from mockchat.core.entries import DatasetError
from mockchat.requester.options import MODEL
from mockchat.requester.plan import places, questions
from mockchat.requester.result import place
from mockchat.requester.verify import verify

try:
    _path = recordings.named(os.environ.get("MOCKCHAT_DATA") or recordings.default())
    with redirect_stdout(sys.stderr):  # locust's own `--json` prints on stdout.
        _loaded, _index = recordings.load([_path], stitch=not os.environ.get("MOCKCHAT_NO_STITCH"))
except DatasetError as error:
    sys.exit(f"locust: {error}")

_answered = [each for each in _loaded.conversations if each.replies]
_model = os.environ.get("MOCKCHAT_MODEL") or MODEL
_headers = {"Content-Type": "application/json", "Accept": "application/json"}
if _key := os.environ.get("OPENAI_API_KEY"):
    _headers["Authorization"] = f"Bearer {_key}"
_told: dict[tuple[str, str], str] = {}  # The first failure of each kind and cause: locust groups failures by text.


class Replay(FastHttpUser):
    """A user that replays one conversation after the other. `host` is the base URL, with `/v1`."""

    host = "http://127.0.0.1:8000/v1"

    @task
    def conversation(self) -> None:
        """Ask for each reply of a conversation in turn."""
        for asked, body, expected in questions(places([random.choice(_answered)]), _index, _model, stream=False):
            with (
                self.client.post(
                    endpoint(f"{self.client.base_url}"),
                    data=body,  # type: ignore[arg-type]  # Bytes, says its documentation.
                    headers=_headers,
                    name="/chat/completions",
                    allow_redirects=False,
                    catch_response=True,
                ) as response,
                suppress(*FAILURE_EXCEPTIONS),  # A cut-off answer: locust reports it.
            ):
                if response.status_code and (problem := verify(response.status_code, response.content, expected)):
                    kind, cause, detail = problem
                    told = f"{kind}: {cause}; first in {place(asked.conversation.id, asked.number)}: {detail}"
                    response.failure(_told.setdefault((kind, cause), told))
