"""Environments have a table of their own: a sandbox's row is written with each change, and they seldom change."""

import sqlalchemy as sa
from alembic import op

revision = "environments"
down_revision = "parts"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "environment",
        sa.Column("uid", sa.String(), primary_key=True),
        sa.Column("env", sa.LargeBinary(), nullable=False),
    )
    op.execute("INSERT INTO environment (uid, env) SELECT uid, env FROM sandbox")
    op.drop_column("sandbox", "env")


def downgrade() -> None:
    raise NotImplementedError("older releases do not read the entries that were written since")
