"""A replica's row says which documents the replica understands, so that none is written that another one would misread.

The row of a replica of an earlier release does not say it.
"""

import sqlalchemy as sa
from alembic import op

revision = "replica_documents"
down_revision = "schedules"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("replica", sa.Column("documents", sa.Integer(), nullable=True))


def downgrade() -> None:
    raise NotImplementedError("the column may stay: earlier releases leave it alone")
