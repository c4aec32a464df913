"""Why an answer got no grade: one of OpenAI's error flags, and the reason in words."""

from typing import Literal

Flag = Literal[
    "formula_parse_error",
    "sample_parse_error",
    "invalid_variable_error",
    "python_grader_server_error",
    "python_grader_runtime_error",
    "model_grader_server_error",
    "model_grader_refusal_error",
    "model_grader_parse_error",
    "other_error",
]
"""`truncated_observation_error` and `unresponsive_reward_error` are OpenAI's too; nothing here ends in them."""

MAX_DETAIL_CHARACTERS = 1000


class GradingFailed(Exception):
    """The grader could not grade this answer: its reward is 0."""

    def __init__(self, flag: Flag, detail: str) -> None:
        # it may quote half a surrogate pair, or a very long value, of what a client sent
        self.detail = detail.encode(errors="replace").decode()[:MAX_DETAIL_CHARACTERS]
        super().__init__(self.detail)
        self.flag = flag
