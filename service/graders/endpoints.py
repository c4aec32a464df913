"""`/v1/fine_tuning/alpha/graders`."""

from typing import Annotated, cast

from fastapi import APIRouter, Depends, Request

from service.api_route import REPEATABLE
from service.auth import Reader
from service.graders.graders import Graders
from service.graders.schemas import GraderRun, RunGrader, ValidatedGrader, ValidateGrader

router = APIRouter(prefix="/fine_tuning/alpha/graders", tags=["Graders"])


def _graders(request: Request) -> Graders:
    return cast(Graders, request.app.state.graders)


GivenGraders = Annotated[Graders, Depends(_graders)]


@router.post("/run", openapi_extra={REPEATABLE: True})
async def run_grader(body: RunGrader, caller: Reader, graders: GivenGraders) -> GraderRun:
    """Grades one answer, as a reinforcement job would, and tells the reward.

    What is wrong with the grader itself is refused with 400. What goes wrong with this answer or this item, such as a
    value that a template names and that is not there, is told in `metadata.errors`, and the reward is 0. Model graders
    ask a model of this server, with the rights of the caller, or one of the endpoint in `FETTLE_GRADER_BASE_URL`;
    python graders run in a sandbox without network, and are refused where the server's machine can make none.
    """
    return GraderRun.from_grade(await graders.run(caller.project_id, body.grader, body.model_sample, body.item or {}))


@router.post("/validate", openapi_extra={REPEATABLE: True}, response_model_exclude_unset=True)
async def validate_grader(body: ValidateGrader, caller: Reader, graders: GivenGraders) -> ValidatedGrader:
    """Checks a grader without grading anything, and answers with it.

    Its fields, templates and formula are read, its models looked up, and the source of a python grader is loaded in
    the sandbox. What is wrong is refused with 400 and the field's name in `param`.
    """
    await graders.validate(caller.project_id, body.grader)
    return ValidatedGrader(grader=body.grader)
