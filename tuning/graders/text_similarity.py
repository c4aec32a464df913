"""`text_similarity`: from 0 to 1 by how alike two texts are."""

from collections.abc import Awaitable, Callable

from tuning.graders.failure import GradingFailed
from tuning.graders.sample import Namespaces
from tuning.graders.schemas import TextSimilarityGrader
from tuning.graders.templates import render

MAX_TEXT_CHARACTERS = 100_000
"""Of each text once its values are filled in."""

MeasureSimilarity = Callable[[str, str, str], Awaitable[float]]
"""Metric, text, reference → 0 to 1, as `similarity_metrics.measure_similarity`. Raises GradingFailed."""


async def compare_texts(grader: TextSimilarityGrader, namespaces: Namespaces, measure: MeasureSimilarity) -> float:
    text, reference = render(grader.input, namespaces), render(grader.reference, namespaces)
    if max(len(text), len(reference)) > MAX_TEXT_CHARACTERS:
        raise GradingFailed("other_error", f"Texts longer than {MAX_TEXT_CHARACTERS} characters are not compared.")
    return await measure(grader.evaluation_metric, text, reference)
