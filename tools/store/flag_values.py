"""Types of flags for argparse: numbers within limits; the error says what would be right."""

from __future__ import annotations

import argparse

_LONGEST = 1_000_000.0  # seconds; the system's timers have limits


def positive(text: str) -> int:
    """A whole number, at least 1."""
    return _whole_number(text, least=1)


def not_negative(text: str) -> int:
    """A whole number, at least 0."""
    return _whole_number(text, least=0)


def seconds(text: str) -> float:
    """A time of more than 0 seconds, which the system can wait."""
    number = _number(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"must be more than 0 seconds, not {text}")
    if number > _LONGEST:
        raise argparse.ArgumentTypeError(f"must be at most {_LONGEST:,.0f} seconds, not {text}")
    return number


def share_below_half(text: str) -> float:
    """A number from 0 to less than 0.5."""
    number = _number(text)
    if not 0 <= number < 0.5:
        raise argparse.ArgumentTypeError(f"must be from 0 to less than 0.5, not {text}")
    return number


def share(text: str) -> float:
    """A number from 0 to 1."""
    number = _number(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1, not {text}")
    return number


def _whole_number(text: str, *, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"must be a whole number, at least {least}, not {text}")
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text}") from None
