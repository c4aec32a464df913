"""how a job trains beyond OpenAI's fields, what was decided, and what came of it

Only columns are added, and one constraint is loosened: the version before goes on working on this schema.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs") as batch_op:
        for name in ("x_training", "x_resolved", "evaluation", "seconds"):
            batch_op.add_column(sa.Column(name, sa.JSON(), nullable=True))
    # The model that a job ends with may be that of an earlier step, whose own checkpoint stays.
    with op.batch_alter_table("checkpoints") as batch_op:
        batch_op.drop_constraint("uq_checkpoints_job_id_step_number", type_="unique")
        batch_op.create_unique_constraint("uq_checkpoints_job_id_model", ["job_id", "model"])
