"""Alembic's entry: runs the revisions on the connection that `database.upgrade` hands over, inside its transaction."""

from alembic import context

from mlops_assets.foundation.errors import SettingsError
from mlops_assets.foundation.tables import Base


def run_migrations() -> None:
    """Run on the given connection, never on one of its own."""
    connection = context.config.attributes.get("connection")
    if connection is None:
        raise SettingsError("migrations run through mlops_assets.foundation.database.upgrade(engine), not by a URL")
    context.configure(connection=connection, target_metadata=Base.metadata, compare_type=True)
    with context.begin_transaction():
        context.run_migrations()


run_migrations()
