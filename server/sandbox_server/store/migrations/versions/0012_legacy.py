"""What the database of the former system says of the objects that are to be adopted has a table."""

import sqlalchemy as sa
from alembic import op

revision = "legacy"
down_revision = "starts"
branch_labels = None
depends_on = None

_BYTEWISE = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "legacy_sandbox",
        sa.Column("namespace", _BYTEWISE, primary_key=True),
        sa.Column("name", _BYTEWISE, primary_key=True),
        *(
            sa.Column(name, sa.String(), nullable=False)
            for name in ("legacy_id", "title", "project", "owner", "status", "public_url", "ttyd_url")
        ),
    )


def downgrade() -> None:
    raise NotImplementedError("the table may stay: earlier releases leave it alone")
