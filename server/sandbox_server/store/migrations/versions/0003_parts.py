"""Specs and names of variables are stored once, and the log is trimmed without a scan.

Older entries keep both in their documents. Of the trimmed history only the last entries of sandboxes remain: from now on
each is removed when another takes its place, so that no trim has to look for it.
"""

import sqlalchemy as sa
from alembic import op

revision = "parts"
down_revision = "lists"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "part",
        sa.Column("sequence", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("replaced_at", sa.BigInteger(), nullable=True),
        sa.Column("document", sa.String(), nullable=False),
        sqlite_with_rowid=False,
    )
    replaced = sa.text("replaced_at IS NOT NULL")
    op.create_index("part_replaced_at", "part", ["replaced_at"], sqlite_where=replaced, postgresql_where=replaced)
    op.add_column("status_event", sa.Column("spec_sequence", sa.BigInteger(), nullable=True))
    op.add_column("status_event", sa.Column("env_names_sequence", sa.BigInteger(), nullable=True))
    op.create_index("request_created_at", "request", ["created_at"])
    op.execute(
        "DELETE FROM status_event WHERE sequence <= (SELECT trimmed_sequence FROM watch_log) AND NOT EXISTS ("
        "SELECT 1 FROM sandbox WHERE sandbox.namespace = status_event.namespace"
        " AND sandbox.id = status_event.sandbox_id AND sandbox.sequence = status_event.sequence)"
    )


def downgrade() -> None:
    raise NotImplementedError("older releases do not read the entries that were written since")
