"""`label_model`: a model chooses one of some labels; the passing ones are worth 1."""

from tuning.graders.failure import GradingFailed
from tuning.graders.model_call import AskModel, ask_for_result
from tuning.graders.sample import Namespaces
from tuning.graders.schemas import LabelModelGrader


async def label_with_model(grader: LabelModelGrader, namespaces: Namespaces, ask: AskModel) -> str:
    """The label."""
    wanted = {"type": "string", "enum": grader.labels}
    result = await ask_for_result(grader, wanted, namespaces, ask)
    if result not in grader.labels:
        raise GradingFailed("model_grader_parse_error", f"The model's result is no label: {str(result)[:200]!r}.")
    return str(result)
