"""Checks an input file in a process of its own: two hundred megabytes of JSON must not hold up the event loop."""

import asyncio
import json
import sys

from service.batches.input_check import InputError, InputReport
from service.settings import Settings


async def validate_input(uri: str, endpoint: str, settings: Settings) -> InputReport:
    """Raises RuntimeError when the process died: nobody is harmed, and a repeated step starts another one."""
    question = {
        "uri": uri,
        "endpoint": endpoint,
        "s3_endpoint_url": settings.s3_endpoint_url,
        "s3_region": settings.s3_region,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "service.batches.validation_worker",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        output, _ = await process.communicate(json.dumps(question).encode())
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if process.returncode != 0:
        raise RuntimeError(f"the process that validates a batch's input ended with {process.returncode}")
    answer = json.loads(output)
    return InputReport(**(answer | {"errors": [InputError(**error) for error in answer["errors"]]}))
