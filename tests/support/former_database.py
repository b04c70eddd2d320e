"""The database of the former system, in a real PostgreSQL, with the columns of its releases."""

from collections.abc import Mapping

import psycopg
from psycopg import sql

COLUMNS = {
    "id": "text PRIMARY KEY",
    "name": "text NOT NULL",
    "projectId": "text",
    "userId": "text",
    "k8sDeploymentName": "text",
    "k8sNamespace": "text",
    "status": '"SandboxStatus"',
    "publicUrl": "text",
    "ttydUrl": "text",
    "createdAt": "timestamp(3) NOT NULL DEFAULT now()",
}
"""Those of its last release, with their types, as Prisma makes them."""


class Former:
    """A table of sandboxes with these columns, in a schema of a database."""

    def __init__(self, url: str, columns: Mapping[str, str] = COLUMNS, schema: str = "public") -> None:
        self.url = url
        self._table = sql.Identifier(schema, "Sandbox")
        self._columns = columns
        with psycopg.connect(url, autocommit=True) as opened:
            opened.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
            opened.execute("""
                DO $$ BEGIN CREATE TYPE "SandboxStatus" AS ENUM ('RUNNING', 'STOPPED', 'TERMINATED');
                EXCEPTION WHEN duplicate_object THEN NULL; END $$
            """)
            fields = [sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kind)) for name, kind in columns.items()]  # type: ignore[arg-type]
            opened.execute(sql.SQL("CREATE TABLE {} ({})").format(self._table, sql.SQL(", ").join(fields)))

    def add(self, row_id: str, object_name: str | None, **values: object) -> None:
        """Adds a row: of the columns that are there, with usual values."""
        usual = {
            "id": row_id,
            "name": f"the {row_id}",
            "projectId": "clprojecta",
            "userId": "cluserb",
            "k8sDeploymentName": object_name,
            "k8sNamespace": "default",
            "status": "RUNNING",
        }
        row = {name: value for name, value in (usual | values).items() if name in self._columns}
        names, places = map(sql.Identifier, row), [sql.Placeholder()] * len(row)
        self._run(
            sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
                self._table, sql.SQL(", ").join(names), sql.SQL(", ").join(places)
            ),
            *row.values(),
        )

    def change(self, row_id: str, column: str, value: object) -> None:
        """Changes a column of a row."""
        self._run(
            sql.SQL("UPDATE {} SET {} = %s WHERE id = %s").format(self._table, sql.Identifier(column)), value, row_id
        )

    def _run(self, statement: sql.Composed, *values: object) -> None:
        with psycopg.connect(self.url, autocommit=True) as opened:
            opened.execute(statement, values)
