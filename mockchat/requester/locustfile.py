"""What locust runs: users that replay recorded conversations turn by turn and verify each answer.

`locust -f mockchat/requester/locustfile.py`, as https://docs.locust.io says. locust reads this file
before it forks, so the recordings are read here: once, and shared by its processes. The environment names them, since
options come later.
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
from mockchat.requester.plan import Question, places, questions
from mockchat.requester.verify import verify


def _conversations() -> Iterator[Conversation]:
    """All that have a reply, in random order, again and again."""
    answered = [each for each in _loaded.conversations if each.replies]
    while True:
        yield from random.sample(answered, len(answered))


try:
    _paths = [recordings.named(os.environ.get("MOCKCHAT_DATA") or recordings.default())]
    with redirect_stdout(sys.stderr):  # locust's own `--json` prints on stdout.
        _loaded, _index = recordings.load(_paths, stitch=not os.environ.get("MOCKCHAT_NO_STITCH"))
except DatasetError as error:
    sys.exit(f"locust: {error}")

_in_turn = _conversations()  # Begins when the first user does: after a fork, so that no two processes draw the same.
_told: dict[tuple[str, str], str] = {}  # The first of the failures that are alike, for all of them.


def _add_options(parser: ArgumentParser, **_: Any) -> None:
    parser.add_argument("--model", default="", metavar="<name>", help="The model to ask for (default: none is named)")
    parser.add_argument(
        "--api-key",
        metavar="<key>",
        env_var="OPENAI_API_KEY",
        include_in_web_ui=False,
        help="Sent as a bearer token",
    )


events.init_command_line_parser.add_listener(_add_options)
events.test_start.add_listener(lambda **_: _told.clear())


class WrongAnswer(Exception):
    """What locust shows of an exception is its `repr`: here that is the plain text."""

    __repr__ = Exception.__str__


class Replay(FastHttpUser):
    """A user that takes one conversation after the other. `host` is the base URL: with `/v1`, as everywhere."""

    host = "http://127.0.0.1:8000/v1"

    def on_start(self) -> None:
        """Make ready what is the same for all requests."""
        options = self.environment.parsed_options
        self._url = endpoint(f"{self.client.base_url}")
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if options.api_key:
            self._headers["Authorization"] = f"Bearer {options.api_key}"

    @task
    def conversation(self) -> None:
        """Ask for each reply of the next conversation in turn."""
        model = self.environment.parsed_options.model or None
        for question in questions(places([next(_in_turn)]), _index, model, stream=False):
            self._ask(question)

    def _ask(self, question: Question) -> None:
        place, body, expected = question
        with (
            self.client.post(
                self._url,
                data=body,  # type: ignore[arg-type]  # Bytes, says its documentation.
                headers=self._headers,
                name="/chat/completions",
                allow_redirects=False,
                catch_response=True,
            ) as response,
            suppress(*FAILURE_EXCEPTIONS),  # An answer that is cut off: locust says it.
        ):
            if response.status_code and (problem := verify(response.status_code, response.content, expected)):
                kind, cause, detail = problem
                where = f"conversation {place.conversation.id}, message {place.number}"
                told = _told.setdefault((kind, cause), f"{kind}: {cause}; first in {where}: {detail}")
                response.failure(WrongAnswer(told))
