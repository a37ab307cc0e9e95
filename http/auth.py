"""HTTP authentication: what a request's Authorization field says."""

from __future__ import annotations

from base64 import b64decode


def parse_basic(field: str) -> tuple[str, str] | None:
    """User and password of the scheme Basic (RFC 7617), None if they are not there."""
    if field[:6].lower() != "basic ":
        return None
    try:
        pair = b64decode(field[6:], validate=True)
    except ValueError:
        return None
    try:
        text = pair.decode()
    except UnicodeDecodeError:
        text = pair.decode("latin-1")  # what some clients send
    user, colon, password = text.partition(":")
    return (user, password) if colon else None
