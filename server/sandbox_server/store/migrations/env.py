"""Runs migrations on the connection that `store.schema` hands over."""

from alembic import context
from sandbox_server.store import tables  # noqa: F401 - registers the tables
from sqlmodel import SQLModel

context.configure(
    connection=context.config.attributes["connection"], target_metadata=SQLModel.metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
