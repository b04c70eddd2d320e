"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "first"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sandbox",
        sa.Column("namespace", sa.String(), primary_key=True),
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("host", sa.String(), nullable=False, unique=True),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("k8s_deployment_name", sa.String(), nullable=False),
        sa.Column("desired", sa.String(), nullable=False),
        sa.Column("phase", sa.String(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("env", sa.LargeBinary(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "status_event",
        sa.Column("sequence", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("namespace", sa.String(), nullable=False),
        sa.Column("sandbox_id", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("document", sa.String(), nullable=False),
    )
    watch_log = op.create_table(
        "watch_log",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("last_sequence", sa.BigInteger(), nullable=False),
        sa.Column("trimmed_sequence", sa.BigInteger(), nullable=False),
    )
    op.bulk_insert(watch_log, [{"id": 1, "last_sequence": 0, "trimmed_sequence": 0}])
    op.create_table(
        "request",
        sa.Column("tenant", sa.String(), primary_key=True),
        sa.Column("request_id", sa.String(), primary_key=True),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("namespace", sa.String(), nullable=False),
        sa.Column("sandbox_id", sa.String(), nullable=False),
        sa.Column("sandbox_uid", sa.String(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    for table in ("request", "watch_log", "status_event", "sandbox"):
        op.drop_table(table)
