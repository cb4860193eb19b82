"""The server: answers `POST /v1/chat/completions` from recorded conversations."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mockchat.server.workers import create_app

__all__ = ["create_app"]


def __getattr__(name: str) -> Any:
    """Import `create_app` when gunicorn asks for it: nobody else needs it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mockchat.server.workers import create_app

    return create_app
