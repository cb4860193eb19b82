"""The server in a test: `serve`, and the pytest plugin with its fixture `mockchat`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mockchat.testing.server import MockServer, serve
    from mockchat.testing.watched import Request

__all__ = ["MockServer", "Request", "serve"]


def __getattr__(name: str) -> Any:
    """Import the server when it is first used: pytest loads the plugin in every run, whether it is used or not."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mockchat.testing import server

    return getattr(server, name)
