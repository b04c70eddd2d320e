"""Lists and catch-ups are read by index.

Ids have the order of their bytes: with a collation of a language the pages of a list would not follow one another.
"""

from alembic import op

revision = "lists"
down_revision = "first"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute('ALTER TABLE sandbox ALTER COLUMN id TYPE VARCHAR COLLATE "C"')
    op.create_index("status_event_of_tenant", "status_event", ["tenant", "sequence"])
    op.create_index("status_event_of_sandbox", "status_event", ["namespace", "sandbox_id", "sequence"])


def downgrade() -> None:
    op.drop_index("status_event_of_sandbox", "status_event")
    op.drop_index("status_event_of_tenant", "status_event")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE sandbox ALTER COLUMN id TYPE VARCHAR")
