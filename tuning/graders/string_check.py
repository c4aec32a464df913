"""`string_check`: 1 or 0 by comparing two texts."""

from tuning.graders.sample import Namespaces
from tuning.graders.schemas import StringCheckGrader
from tuning.graders.templates import render


def check_string(grader: StringCheckGrader, namespaces: Namespaces) -> float:
    text, reference = render(grader.input, namespaces), render(grader.reference, namespaces)
    match grader.operation:
        case "eq":
            return float(text == reference)
        case "ne":
            return float(text != reference)
        case "like":
            return float(reference in text)
        case "ilike":
            return float(reference.casefold() in text.casefold())
