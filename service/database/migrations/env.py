"""Alembic's entry: runs on the connection that `engine.migrate` hands over."""

from alembic import context

from service.database.tables import Table

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Table.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
