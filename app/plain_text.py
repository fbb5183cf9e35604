"""Text from models, runs and users, made safe to print."""

from __future__ import annotations


def clean(text: str) -> str:
    """One line without control, direction and other invisible characters: they become U+FFFD.

    >>> clean("a\\x1b[31mred\\nb")
    'a�[31mred b'
    """
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in " ".join(text.split()))
