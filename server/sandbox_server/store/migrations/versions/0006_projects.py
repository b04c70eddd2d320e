"""The events of a project are read by index, and a mutation's event says which method was called.

The project of an event never changes, and a later sandbox of the same id can have another: so each event has its own, the
older ones that of their spec. Which method made them is not known.
"""

import sqlalchemy as sa
from alembic import op

revision = "projects"
down_revision = "causes"
branch_labels = None
depends_on = None

# The documents of the first release have the spec in them.
_PROJECTS = {
    "sqlite": """
UPDATE status_event SET project = CASE
    WHEN spec_sequence IS NULL THEN json_extract(document, '$.spec.project')
    ELSE (SELECT json_extract(part.document, '$.project') FROM part
          WHERE part.sequence = status_event.spec_sequence AND part.name = 'spec')
END
""",
    "postgresql": """
UPDATE status_event SET project = CASE
    WHEN spec_sequence IS NULL THEN CAST(document AS JSON) #>> '{spec,project}'
    ELSE (SELECT CAST(part.document AS JSON) ->> 'project' FROM part
          WHERE part.sequence = status_event.spec_sequence AND part.name = 'spec')
END
""",
}


def upgrade() -> None:
    op.add_column("status_event", sa.Column("project", sa.String(), nullable=True))
    op.add_column("status_event", sa.Column("method", sa.String(), nullable=True))
    op.execute(_PROJECTS[op.get_bind().dialect.name])
    op.create_index("status_event_of_project", "status_event", ["tenant", "project", "sequence"])


def downgrade() -> None:
    raise NotImplementedError("older releases do not write the project of an event")
