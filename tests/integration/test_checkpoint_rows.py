"""The rows of checkpoints: the tuned model and the checkpoint of the step that it was kept from."""

from service.database.engine import Sessions
from service.database.tables import CheckpointRow
from service.fine_tuning.repository import list_checkpoints, replace_checkpoint
from service.ids import new_checkpoint_id
from tests.fixtures.databases import job_row

NAME = "ft:m:org::12345678"


def row(job_id: str, step: int, model: str) -> CheckpointRow:
    return CheckpointRow(
        id=new_checkpoint_id(),
        job_id=job_id,
        created_at=1.0,
        step_number=step,
        model=model,
        adapter_sha256=f"{step}" * 64,
        metrics={},
    )


async def test_parts_that_are_read_again_add_nothing_and_the_model_is_the_newest(sessions: Sessions) -> None:
    job = job_row()
    told = [(2, f"{NAME}:ckpt-step-2"), (4, f"{NAME}:ckpt-step-4"), (2, NAME)]
    async with sessions.begin() as session:
        session.add(job)
    for _ in range(2):
        async with sessions.begin() as session:
            for step, model in told:
                await replace_checkpoint(session, row(job.id, step, model))
    async with sessions() as session:
        rows, _ = await list_checkpoints(session, job.id, after=None, limit=10)
    assert [(each.step_number, each.model) for each in rows] == told[::-1]
