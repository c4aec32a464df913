"""`score_model`: a model gives a number within a range."""

from tuning.graders.failure import GradingFailed
from tuning.graders.model_call import AskModel, ask_for_result
from tuning.graders.sample import Namespaces
from tuning.graders.schemas import ScoreModelGrader

DEFAULT_RANGE = (0.0, 1.0)


async def score_with_model(grader: ScoreModelGrader, namespaces: Namespaces, ask: AskModel) -> float:
    result = await ask_for_result(grader, {"type": "number"}, namespaces, ask)
    if isinstance(result, bool) or not isinstance(result, int | float):
        raise GradingFailed("model_grader_parse_error", f"The model's result is no number: {str(result)[:200]!r}.")
    lowest, highest = grader.range or DEFAULT_RANGE
    return float(min(max(result, lowest), highest))  # an integer may be larger than any float until it is bounded
