"""Operators list the sandboxes of all namespaces, and the events of any namespace, by index.

Namespaces have the order of their bytes, as ids do: a list of all namespaces has the same order from every database.
"""

from alembic import op

revision = "operators"
down_revision = "projects"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute('ALTER TABLE sandbox ALTER COLUMN namespace TYPE VARCHAR COLLATE "C"')
    op.create_index("status_event_of_namespace", "status_event", ["namespace", "sequence"])


def downgrade() -> None:
    op.drop_index("status_event_of_namespace", "status_event")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE sandbox ALTER COLUMN namespace TYPE VARCHAR")
