"""A locustfile: users replay recorded conversations turn by turn and verify each answer.

`locust -f mockchat/requester/locustfile.py`, see https://docs.locust.io. locust imports this file before it forks and
before it reads options: the recordings are read on import, once for all processes, and the environment names them.
"""

import os
import random
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from typing import Any

from locust import FastHttpUser, events, task
from locust.contrib.fasthttp import FAILURE_EXCEPTIONS

from mockchat.core import recordings
from mockchat.core.answer import endpoint
from mockchat.core.entries import Conversation, DatasetError
from mockchat.requester.options import MODEL
from mockchat.requester.plan import Question, places, questions
from mockchat.requester.result import place
from mockchat.requester.verify import verify


def _conversations() -> Iterator[Conversation]:
    """The conversations with a reply, in random order, endlessly."""
    answered = [each for each in _loaded.conversations if each.replies]
    while True:
        yield from random.sample(answered, len(answered))


try:
    _paths = [recordings.named(os.environ.get("MOCKCHAT_DATA") or recordings.default())]
    with redirect_stdout(sys.stderr):  # locust's own `--json` prints on stdout.
        _loaded, _index = recordings.load(_paths, stitch=not os.environ.get("MOCKCHAT_NO_STITCH"))
except DatasetError as error:
    sys.exit(f"locust: {error}")

_in_turn = _conversations()  # A generator: each process draws its own order, after the fork.
_told: dict[tuple[str, str], str] = {}  # The first failure of each kind and cause: locust groups failures by text.


def _add_options(parser: ArgumentParser, **_: Any) -> None:
    parser.add_argument("--model", default=MODEL, metavar="<name>", help=f"The model to ask for (default {MODEL})")
    key: dict[str, Any] = {"env_var": "OPENAI_API_KEY", "include_in_web_ui": False}
    parser.add_argument("--api-key", metavar="<key>", help="Sent as a bearer token", **key)


events.init_command_line_parser.add_listener(_add_options)
events.test_start.add_listener(lambda **_: _told.clear())


class WrongAnswer(Exception):
    """A failure whose `repr`, which locust shows, is its text."""

    __repr__ = Exception.__str__


class Replay(FastHttpUser):
    """A user that replays one conversation after the other. `host` is the base URL, with `/v1`."""

    host = "http://127.0.0.1:8000/v1"

    def on_start(self) -> None:
        """Set the URL and the headers of all requests."""
        options = self.environment.parsed_options
        self._url = endpoint(f"{self.client.base_url}")
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if options.api_key:
            self._headers["Authorization"] = f"Bearer {options.api_key}"

    @task
    def conversation(self) -> None:
        """Ask for each reply of the next conversation in turn."""
        model = self.environment.parsed_options.model
        for question in questions(places([next(_in_turn)]), _index, model, stream=False):
            self._ask(question)

    def _ask(self, question: Question) -> None:
        asked, body, expected = question
        with (
            self.client.post(
                self._url,
                data=body,  # type: ignore[arg-type]  # Bytes, says its documentation.
                headers=self._headers,
                name="/chat/completions",
                allow_redirects=False,
                catch_response=True,
            ) as response,
            suppress(*FAILURE_EXCEPTIONS),  # A cut-off answer: locust reports it.
        ):
            if response.status_code and (problem := verify(response.status_code, response.content, expected)):
                kind, cause, detail = problem
                where = place(asked.conversation.id, asked.number)
                told = _told.setdefault((kind, cause), f"{kind}: {cause}; first in {where}: {detail}")
                response.failure(WrongAnswer(told))
