"""Checks an input file in a process of its own: two hundred megabytes of JSON must not hold up the event loop."""

from service.batches.input_check import InputError, InputReport
from service.settings import Settings
from service.worker_process import ask_worker


async def validate_input(uri: str, endpoint: str, settings: Settings) -> InputReport:
    """Raises WorkerDied: a repeated step starts another one."""
    question = {"uri": uri, "endpoint": endpoint, "s3": settings.s3_access}
    answer = await ask_worker("service.batches.validation_worker", question)
    return InputReport(**(answer | {"errors": [InputError(**error) for error in answer["errors"]]}))
