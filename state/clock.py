"""Time as an argument: the real clock and one that tests advance."""

import time
from typing import Protocol


class Clock(Protocol):
    """What Vigil asks of time."""

    def now(self) -> float:
        """Return the wall clock in Unix seconds."""

    def monotonic(self) -> float:
        """Return seconds that never go back, for waits and rates."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """Return the wall clock in Unix seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds that never go back; they stand still while some machines sleep."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


class FakeClock:
    """A clock that moves only when told; `sleep` advances it.

    Args:
        start: First wall-clock value, Unix seconds.
    """

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._wall = start
        self._monotonic = 0.0

    def now(self) -> float:
        """Return the wall clock in Unix seconds."""
        return self._wall

    def monotonic(self) -> float:
        """Return seconds advanced so far."""
        return self._monotonic

    def sleep(self, seconds: float) -> None:
        """Advance instead of waiting."""
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self._wall += seconds
        self._monotonic += seconds

    def step_wall(self, seconds: float) -> None:
        """Move the wall clock alone, as a correction or a sleeping machine does."""
        self._wall += seconds
