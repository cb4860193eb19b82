"""A mock of OpenAI's Chat Completions API that answers from recorded conversations."""

__version__ = "0.1.0"
