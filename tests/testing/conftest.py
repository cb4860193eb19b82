import json

import pytest


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """A project with recordings where the plugin looks for them."""
    recorded = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}
    pytester.mkdir("tests").joinpath("conversations.jsonl").write_text(json.dumps(recorded) + "\n")
    return pytester
