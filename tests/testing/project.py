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
    """Run pytest in this process, without the plugins of everybody else, which take longer than the tests.

    `-p NAME` adds one, as its distribution names it.
    """
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        return project.runpytest_inprocess("-p", "mockchat", *arguments)
