"""Real projects with Alembic migrations, made in a directory of their own."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rollbackd.testing import place
from rollbackd_adapters.alembic import AlembicAdapter
from rollbackd_adapters.alembic.settings import AlembicSettings

pytest.importorskip("alembic")

PATIENT = timedelta(minutes=10)
"""How long a rehearsal may take here: it starts many programs."""
ENVIRONMENT = """
import os
from alembic import context
from sqlalchemy import create_engine

url = os.environ.get("DATABASE_URL") or context.config.get_main_option("sqlalchemy.url")
with create_engine(url).connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""


def migration(revision: str, down: object, up: str, back: str, depends: object = None, label: object = None) -> str:
    def body(text: str) -> str:
        return "\n".join(f"    {line}" for line in (text or "pass").splitlines())

    return (
        f'"""migration {revision}"""\nimport sqlalchemy as sa\nfrom alembic import op\n'
        f"revision = {revision!r}\ndown_revision = {down!r}\ndepends_on = {depends!r}\nbranch_labels = {label!r}\n"
        f"def upgrade():\n{body(up)}\ndef downgrade():\n{body(back)}\n"
    )


class Project:
    """A project below `path`, with its migrations, and the database that `url` names."""

    def __init__(self, path: Path, url: str, environment: str = ENVIRONMENT) -> None:
        self.path = path / "project"
        (self.path / "migrations/versions").mkdir(parents=True)
        self.config = self.path / "alembic.ini"
        self.config.write_text(f"[alembic]\nscript_location = %(here)s/migrations\nsqlalchemy.url = {url}\n")
        (self.path / "migrations/env.py").write_text(environment)

    @classmethod
    def at(cls, path: Path) -> "Project":
        """One that is there already."""
        found = cls.__new__(cls)
        found.path = path / "project"
        found.config = found.path / "alembic.ini"
        return found

    def add(self, revision: str, down: object, up: str, back: str, **more: Any) -> None:
        file = self.path / f"migrations/versions/{revision}.py"
        file.write_text(migration(revision, down, up, back, **more))

    def upgrade(self, to: str = "heads") -> None:
        """As a deployment does it, in a process of its own: alembic's context is global."""
        argv = [sys.executable, "-m", "alembic", "-c", str(self.config), "upgrade", to]
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, cwd=self.path, env={"PATH": "/usr/bin"}
        )
        assert done.returncode == 0, done.stderr


def standard(project: Project) -> None:
    """Three migrations: notes, a column of them, tags."""
    project.add(
        "r1", None,
        'op.create_table("notes", sa.Column("id", sa.Integer, primary_key=True), sa.Column("text", sa.String(40)))',
        'op.drop_table("notes")',
    )  # fmt: skip
    project.add(
        "r2", "r1",
        'op.add_column("notes", sa.Column("mood", sa.String(20)))',
        'op.drop_column("notes", "mood")',
    )  # fmt: skip
    project.add(
        "r3", "r2",
        'op.create_table("tags", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(20)))',
        'op.drop_table("tags")\nop.execute("INSERT INTO notes (text) VALUES (\'r3 is taken back\')")',
    )  # fmt: skip


def schema_layer(path: Path, project: Project, database: Any, **settings: Any) -> Any:
    """The layer `schema` of a service whose layer `db` is that database."""
    given = {
        "adapter": "alembic", "config": str(project.config), "python": sys.executable, "database": "db",
        "url_env": "DATABASE_URL", "timeout": "10m", **settings,
    }  # fmt: skip
    others: Callable[[str], Any] = {"db": database}.__getitem__
    return AlembicAdapter(AlembicSettings.model_validate(given), replace(place(path / "schema"), other=others))
