"""The adapter `alembic` with PostgreSQL: downgrades are rehearsed beside, and what they make is the owner's."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rollbackd.model import Progress, Release
from rollbackd.testing import finish, perform, planned
from tests.contract.alembic_worlds import PATIENT, Project, schema_layer
from tests.contract.test_adapters_postgres import layer
from tests.servers import Postgres, postgres_server

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres_server() as running:
        yield running


def test_a_schema_goes_back_in_the_owners_role_and_tells_what_is_lost(server: Postgres, tmp_path: Path) -> None:
    server.sql('CREATE ROLE "shop owner"', 'CREATE DATABASE shop OWNER "shop owner"')
    project = Project(tmp_path, f"postgresql+psycopg://postgres@/shop?host={server.socket}&port={server.port}")
    project.add("r1", None, 'op.create_table("notes", sa.Column("id", sa.Integer, primary_key=True))', "")
    project.add(
        "r2", "r1",
        'op.create_table("tags", sa.Column("name", sa.String(20)))\n'
        'op.execute("INSERT INTO tags VALUES (\'a\'), (\'b\')")\n'
        'op.execute("ALTER TABLE notes OWNER TO \\"shop owner\\"; ALTER TABLE tags OWNER TO \\"shop owner\\"")\n'
        'op.execute("ALTER TABLE alembic_version OWNER TO \\"shop owner\\"")',
        'op.rename_table("tags", "labels")\nop.create_table("back", sa.Column("id", sa.Integer))\n'
        'op.drop_table("notes")\nop.create_table("notes", sa.Column("id", sa.Integer, primary_key=True))',
    )  # fmt: skip
    project.upgrade()
    server.sql("INSERT INTO notes VALUES (1), (2), (3)", database="shop")
    database = layer(server, tmp_path / "db", "shop")
    schema: Any = schema_layer(tmp_path, project, database, dialect="postgresql+psycopg")
    assert finish(schema.current(), PATIENT) == Release("r2")
    change = finish(planned(schema, Release("r1")), PATIENT)
    said = "\n".join(change.risks)
    assert not change.reversible
    assert "3 of 3 rows of notes go" in said
    assert "table tags goes" not in said
    assert "adds table back" in said
    assert finish(perform(schema, change), PATIENT) is Progress.DONE
    owners = server.sql("SELECT tablename, tableowner FROM pg_tables WHERE schemaname = 'public'", database="shop")
    assert {name for name, _ in owners} == {"notes", "labels", "back", "alembic_version"}
    assert {owner for _, owner in owners} == {"shop owner"}
    assert server.sql("SELECT datname FROM pg_database WHERE datname LIKE 'shop%'") == [("shop",)]
    assert [one.why for one in finish(database.snapshots(), PATIENT)] == ["before"]
    assert finish(schema.unfit(Release("r2")), PATIENT) == ("table tags is called labels now",)
