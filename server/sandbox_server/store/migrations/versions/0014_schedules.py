"""Schedules of snapshots, and how far the slots of each sandbox were worked: earlier releases know nothing of it."""

import sqlalchemy as sa
from alembic import op

revision = "schedules"
down_revision = "snapshots"
branch_labels = None
depends_on = None

_BYTEWISE = sa.String().with_variant(sa.String(collation="C"), "postgresql")
_AWARE = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "schedule",
        sa.Column("namespace", _BYTEWISE, primary_key=True),
        sa.Column("id", _BYTEWISE, primary_key=True),
        sa.Column("uid", sa.String(), nullable=False, unique=True),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("document", sa.String(), nullable=False),
        sa.Column("created_at", _AWARE, nullable=False, server_default=sa.func.now()),
    )
    op.create_index("schedule_of_tenant", "schedule", ["tenant"])
    op.create_table(
        "schedule_sandbox",
        sa.Column("schedule_uid", sa.String(), primary_key=True),
        sa.Column("sandbox_uid", sa.String(), primary_key=True),
        sa.Column("namespace", sa.String(), nullable=False),
        sa.Column("document", sa.String(), nullable=False),
    )
    op.create_index("schedule_sandbox_of_namespace", "schedule_sandbox", ["namespace"])
    schedule_log = op.create_table(
        "schedule_log",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
    )
    op.bulk_insert(schedule_log, [{"id": 1, "revision": 0}])


def downgrade() -> None:
    raise NotImplementedError("the tables may stay: earlier releases leave them alone")
