"""what a job needs of a cluster, and when it was started there

Only columns are added: the version before goes on working on this schema.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.add_column(sa.Column("resources", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("not_before", sa.Double(), nullable=True))
        batch_op.add_column(sa.Column("launched_at", sa.Double(), nullable=True))
