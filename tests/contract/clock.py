"""A clock that a test sets."""

from __future__ import annotations


class SettableClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now
