"""Measures texts in processes of their own: long ones take seconds, in which the event loop must go on."""

import asyncio
from datetime import timedelta

from service.worker_process import WorkerDied, ask_worker
from tuning.graders.failure import GradingFailed

TIME = timedelta(seconds=30)
"""Only `fuzzy_match` can take that long, for texts of ten thousand characters and more."""


class SimilarityWorkers:
    def __init__(self, at_once: int) -> None:
        self._room = asyncio.Semaphore(at_once)

    async def measure(self, metric: str, text: str, reference: str) -> float:
        """Raises GradingFailed when it takes too long or too much memory."""
        question = {"metric": metric, "text": text, "reference": reference}
        try:
            async with (
                self._room,
                asyncio.timeout(TIME.total_seconds()),
            ):  # in this order: waiting is free
                return float(await ask_worker("service.graders.similarity_worker", question))
        except TimeoutError as error:
            seconds = TIME.total_seconds()
            reason = f"'{metric}' took longer than {seconds:g} s. Compare shorter texts, or use another metric."
            raise GradingFailed("other_error", reason) from error
        except WorkerDied as error:
            reason = f"'{metric}' could not be measured: it needs too much memory."
            raise GradingFailed("other_error", reason) from error
