"""Several replicas share the namespaces by leases, and the schema says which releases may use it.

Releases of earlier schemas know no leases and would reconcile every namespace: they must not run beside this one.
"""

import sqlalchemy as sa
from alembic import op

revision = "leases"
down_revision = "operators"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "replica",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("release", sa.String(), nullable=False),
        sa.Column("engine", sa.String(), nullable=False),
        sa.Column("namespaces", sa.String(), nullable=False),
        sa.Column("alive_until", sa.Double(), nullable=False),
        sa.Column("cut_off", sa.Boolean(), nullable=False),
    )
    op.create_table(
        "lease",
        sa.Column("namespace", sa.String(), primary_key=True),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.Column("synced", sa.Boolean(), nullable=False),
        sa.Column("fault", sa.String(), nullable=False),
        sa.Column("readable", sa.Boolean(), nullable=True),
    )
    compatibility = op.create_table(
        "compatibility",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("oldest", sa.String(), nullable=False),
    )
    op.bulk_insert(compatibility, [{"id": 1, "oldest": revision}])


def downgrade() -> None:
    raise NotImplementedError("older releases know no leases")
