"""What the tests of the plugin have in common: runs of pytest inside this one."""

import pytest

ASK = """
import json, urllib.request

def ask(base_url, *contents):
    messages = [{"role": ("user", "assistant")[n % 2], "content": content} for n, content in enumerate(contents)]
    headers = {"Accept": "application/json"}
    body = json.dumps({"messages": messages}).encode()
    request = urllib.request.Request(base_url + "/chat/completions", body, headers)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["choices"][0]["message"]["content"]
"""
SWALLOWS = (
    ASK
    + """
import pytest, urllib.error

def swallow(mockchat, *contents):
    with pytest.raises(urllib.error.HTTPError):
        ask(mockchat.base_url, *contents)
"""
)


def run(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run pytest without the plugin of hypothesis, which takes a second in each run."""
    options = ("-p", "no:hypothesispytest", "-o", "asyncio_default_fixture_loop_scope=function", *arguments)
    return project.runpytest(*options)
