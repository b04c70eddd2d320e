"""A replica's row says since when the replica runs, so that one that starts again and again is noticed.

The row of a replica of an earlier release does not say it.
"""

import sqlalchemy as sa
from alembic import op

revision = "starts"
down_revision = "leases"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("replica", sa.Column("started_at", sa.Double(), nullable=True))


def downgrade() -> None:
    raise NotImplementedError("the column may stay: earlier releases leave it alone")
