"""The server: answers `POST /v1/chat/completions` from recorded conversations."""
