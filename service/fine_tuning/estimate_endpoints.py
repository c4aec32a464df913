"""`/v1/fine_tuning/jobs/estimate`."""

from typing import Annotated, cast

from fastapi import APIRouter, Depends, Request, Response

from service.api_route import LIMITED, REPEATABLE
from service.auth import Reader
from service.fine_tuning.estimate_schemas import JobEstimate
from service.fine_tuning.estimates import Estimates
from service.fine_tuning.schemas import CreateJob
from service.leaving_clients import until_disconnect

router = APIRouter(prefix="/fine_tuning/jobs", tags=["Fine-tuning"])


def _estimates(request: Request) -> Estimates:
    return cast(Estimates, request.app.state.estimates)


GivenEstimates = Annotated[Estimates, Depends(_estimates)]


@router.post("/estimate", response_model=JobEstimate, openapi_extra={REPEATABLE: True, LIMITED: True})
async def estimate_fine_tuning_job(
    body: CreateJob, request: Request, caller: Reader, estimates: GivenEstimates
) -> JobEstimate | Response:
    """What a job would be: exact tokens and steps, memory, time, price, and whether it would be admitted.

    The body is that of `POST /v1/fine_tuning/jobs`. The files are read and checked as the job's would be, and nothing
    is stored. A request that the job's endpoint could not even read, or that names a model or a file that is not there,
    is refused with 400; every other refusal is in the answer, under `admission`. One estimate at a time is made for
    each project.
    """
    return await until_disconnect(request, estimates.estimate(caller, body))
