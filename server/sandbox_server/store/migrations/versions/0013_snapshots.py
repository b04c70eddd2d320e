"""Snapshots of disks, with a log of their own: earlier releases know nothing of it."""

import sqlalchemy as sa
from alembic import op

revision = "snapshots"
down_revision = "legacy"
branch_labels = None
depends_on = None

_BYTEWISE = sa.String().with_variant(sa.String(collation="C"), "postgresql")
_AWARE = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "snapshot",
        sa.Column("namespace", _BYTEWISE, primary_key=True),
        sa.Column("id", _BYTEWISE, primary_key=True),
        sa.Column("uid", sa.String(), nullable=False, unique=True),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("sandbox_id", sa.String(), nullable=False),
        sa.Column("sandbox_uid", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("document", sa.String(), nullable=False),
        sa.Column("created_at", _AWARE, nullable=False, server_default=sa.func.now()),
    )
    op.create_index("snapshot_of_sandbox", "snapshot", ["namespace", "sandbox_id"])
    op.create_index("snapshot_of_tenant", "snapshot", ["tenant"])
    op.create_table(
        "snapshot_event",
        sa.Column("sequence", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("namespace", sa.String(), nullable=False),
        sa.Column("snapshot_id", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("at", _AWARE, nullable=False, server_default=sa.func.now()),
        sa.Column("document", sa.String(), nullable=False),
    )
    snapshot_log = op.create_table(
        "snapshot_log",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("last_sequence", sa.BigInteger(), nullable=False),
        sa.Column("trimmed_sequence", sa.BigInteger(), nullable=False),
    )
    op.bulk_insert(snapshot_log, [{"id": 1, "last_sequence": 0, "trimmed_sequence": 0}])


def downgrade() -> None:
    raise NotImplementedError("the tables may stay: earlier releases leave them alone")
