"""Each event says what caused it. Those that are there say nothing: what they hold tells it well enough."""

import sqlalchemy as sa
from alembic import op

revision = "causes"
down_revision = "environments"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("status_event", sa.Column("cause", sa.Integer(), nullable=True))
    op.add_column("status_event", sa.Column("actor", sa.String(), nullable=True))
    op.add_column("status_event", sa.Column("request_id", sa.String(), nullable=True))


def downgrade() -> None:
    raise NotImplementedError("older releases do not read the events that were written since")
