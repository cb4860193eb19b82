"""The requester: asks for every recorded reply and verifies every answer."""
