"""Seconds by stage, as the result tells them."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._inner_seconds = [0.0]

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Stages may nest; a second counts for the innermost only."""
        started = time.monotonic()
        self._inner_seconds.append(0.0)
        try:
            yield
        finally:
            elapsed = time.monotonic() - started
            self._seconds[name] += elapsed - self._inner_seconds.pop()
            self._inner_seconds[-1] += elapsed

    def seconds(self) -> dict[str, float]:
        return {name: round(seconds, 3) for name, seconds in self._seconds.items()}
