"""`multi`: a formula over the rewards of other graders."""

from collections.abc import Mapping

from tuning.graders.failure import GradingFailed
from tuning.graders.formula import FormulaError, compute_formula
from tuning.graders.schemas import MultiGrader


def combine_rewards(grader: MultiGrader, rewards: Mapping[str, float]) -> float:
    try:
        return compute_formula(grader.calculate_output, rewards)
    except FormulaError as error:
        raise GradingFailed("formula_parse_error", f"'calculate_output': {error}.") from error
