"""The adapter `alembic` on real projects, with SQLite: the contract, and what becomes of each kind of downgrade."""

import json
import re
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rollbackd import testing
from rollbackd.adapter import AdapterError
from rollbackd.config.load import ConfigErrors, load
from rollbackd.model import Progress, Release
from rollbackd.system import boundary
from rollbackd.testing import HOSTILE, AdapterContract, World, finish, killed_at, lives, perform, planned, starts
from tests.contract.alembic_worlds import ENVIRONMENT, PATIENT, Project, schema_layer, standard
from tests.contract.test_adapters_sqlite import layer
from tests.sweeps import swept

pytestmark = pytest.mark.timeout(1800)


def do(file: Path, *statements: str) -> list[Any]:
    """Each statement; the rows of the last one."""
    with closing(sqlite3.connect(file)) as db, db:
        rows: list[Any] = []
        for statement in statements:
            rows = db.execute(statement).fetchall()
        return rows


class AlembicWorld(World):
    """A project at r3 of three migrations, copied from one that was planned once already."""

    def __init__(self, template: Path, path: Path) -> None:
        shutil.copytree(template, path, dirs_exist_ok=True)
        self.path, self.file = path, path / "app.db"
        self.config = path / "project/alembic.ini"
        self.python = ""
        self.writer: sqlite3.Connection | None = None

    def adapter(self) -> Any:
        project = Project.at(self.path)
        more = {"python": self.python} if self.python else {}
        return schema_layer(self.path, project, layer(self.path), **more)

    def present(self) -> str:
        return str(do(self.file, "SELECT version_num FROM alembic_version")[0][0])

    def target(self) -> Release:
        return Release("r2")

    def moved_by_somebody(self) -> None:
        do(self.file, "UPDATE alembic_version SET version_num = 'r1'")

    def finished(self) -> int:
        return int(do(self.file, "SELECT count(*) FROM notes WHERE text = 'r3 is taken back'")[0][0])

    def everything(self) -> object:
        return self.present(), self.file.read_bytes(), sorted(path.name for path in self.path.iterdir())

    def break_it(self) -> None:
        self.python = "/nowhere/bin/python"

    def hang(self) -> None:
        """Somebody writes and does not end it."""
        self.writer = sqlite3.connect(self.file, isolation_level=None, check_same_thread=False)
        self.writer.execute("BEGIN IMMEDIATE")

    def __del__(self) -> None:
        if self.writer is not None:
            self.writer.close()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template")
    project = Project(path, f"sqlite:///{path}/app.db")
    standard(project)
    project.upgrade()
    do(path / "app.db", "INSERT INTO notes (text, mood) VALUES ('a', 'good'), ('b', NULL)")
    finish(layer(path).take("first"))
    finish(schema_layer(path, project, layer(path)).plan(Release("r2")), PATIENT)
    shutil.rmtree(path / "schema/locks")
    return path


class TestAlembic(AdapterContract):
    @pytest.fixture(autouse=True)
    def _made_of(self, template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.template = template
        monkeypatch.setattr(testing, "finish", partial(finish, limit=PATIENT))
        monkeypatch.setattr(lives, "PATIENCE", PATIENT)

    def make_world(self, path: Path) -> World:
        return AlembicWorld(self.template, path)

    @pytest.mark.parametrize("hostile", [HOSTILE])
    def test_a_hostile_release_is_refused_before_anything_is_started(self, world: World, hostile: Any) -> None:
        """The contract's own for all of them in one world, which costs a start of Alembic."""
        adapter = world.adapter()
        change = finish(planned(adapter, world.target()), PATIENT)
        with starts() as started:
            for one in hostile:
                with pytest.raises(AdapterError) as refused:
                    finish(adapter.plan(Release(one)))
                assert refused.value.permanent
                with pytest.raises(AdapterError) as refused:
                    finish(adapter.apply(replace(change, after=Release(one))))
                assert refused.value.permanent
        assert started == []

    @pytest.mark.parametrize("descending", [False, True], ids=["alone", "with all it started"])
    def test_killed_at_each_boundary_it_ends_right_in_the_next_life(self, tmp_path: Path, descending: bool) -> None:
        """The contract's own at one boundary each, since one has sixty, of seconds: see tests/sweeps.py."""
        world = self.make_world(tmp_path / "whole")
        change = finish(planned(world.adapter(), world.target()), PATIENT)
        passed: list[str] = []
        boundary.hook = passed.append
        try:
            finish(perform(world.adapter(), change), PATIENT)
        finally:
            boundary.hook = lambda _name: None
        moving = passed.index("process.spawned", passed.index("alembic.rehearsed"))
        chosen = [moving] if descending else [passed.index("alembic.kept")]
        for n in swept(range(len(passed)), chosen):
            world = self.make_world(tmp_path / str(n))
            change = finish(planned(world.adapter(), world.target()), PATIENT)
            assert killed_at(n + 1, lambda w=world, c=change: perform(w.adapter(), c), descending=descending)  # type: ignore[misc]
            assert finish(perform(world.adapter(), change), PATIENT) is Progress.DONE, passed[n]
            assert world.present() == "r2"
            assert world.finished() == 1


# -- kinds of downgrades --------------------------------------------------------------------------
CREATED = 'op.create_table("notes", sa.Column("id", sa.Integer, primary_key=True), sa.Column("text", sa.String(40)))'
FILLED = CREATED + "\nop.execute(\"INSERT INTO notes (text) VALUES ('a'), ('b')\")"


class Made:
    """A project of a few migrations, at the last one."""

    def __init__(self, path: Path, *migrations: tuple[str, str], **more: Any) -> None:
        self.file = path / "app.db"
        project = Project(path, f"sqlite:///{self.file}", **more)
        project.add("r1", None, FILLED, "")
        for n, (up, back) in enumerate(migrations, 2):
            project.add(f"r{n}", f"r{n - 1}", up, back)
        project.upgrade()
        self.database = layer(path)
        self.schema = schema_layer(path, project, self.database, url_env=None if more else "DATABASE_URL")

    def plan(self, to: str = "r1") -> Any:
        return finish(planned(self.schema, Release(to)), PATIENT)


def test_what_each_downgrade_does_is_known_before(tmp_path: Path) -> None:
    made = Made(
        tmp_path,
        ("", "op.execute(\"DELETE FROM notes WHERE text = 'a'\")"),
        ('op.add_column("notes", sa.Column("mood", sa.String(9)))', ""),
        ("", "with op.get_context().autocommit_block():\n    op.execute(\"UPDATE notes SET text = 'c' WHERE id = 2\")"),
    )
    before = made.file.read_bytes()
    change = made.plan()
    assert not change.reversible
    said = "\n".join(change.risks)
    assert "r4 (migration r4) changes values alone" in said
    assert "r4 commits midway" in said
    assert "r3 (migration r3) does nothing" in said
    assert "r2 (migration r2) deletes 1 rows of notes" in said
    assert "1 of 2 rows of notes go" in said
    assert "it could not be upgraded again afterwards: layer: OperationalError" in said
    assert "no copy of db has this schema" in said
    assert made.file.read_bytes() == before
    assert finish(made.database.snapshots()) == []


def test_a_downgrade_that_raises_is_no_way_back_and_a_copy_of_that_schema_is_offered(tmp_path: Path) -> None:
    made = Made(tmp_path, ("", 'raise RuntimeError("by hand only")'))
    do(made.file, "UPDATE alembic_version SET version_num = 'r1'")
    old = finish(made.database.take("old"))
    do(made.file, "UPDATE alembic_version SET version_num = 'r2'")
    assert finish(made.schema.carried_by(Release(old.release))) == Release("r1"), "a copy brings its own schema"
    assert finish(made.schema.carried_by(Release("original"))) is None
    with pytest.raises(AdapterError) as refused:
        made.plan()
    assert refused.value.permanent
    said = "cannot be taken back: layer: RuntimeError at migrations/versions/r2.py:11: by hand only; instead"
    assert said in str(refused.value)
    assert "`rollbackd rollback contract --to db=old`" in str(refused.value)

    (tried,) = tmp_path.rglob("rehearsals/*.json")
    tried.write_text(json.dumps({**json.loads(tried.read_text()), "at": "2026-01-01T00:00:00+00:00"}))
    do(made.file, "CREATE TABLE more (id INTEGER)")
    with pytest.raises(AdapterError):
        made.plan()
    (new,) = tmp_path.rglob("rehearsals/*.json")
    assert new.name != tried.name, "what is too old to be gone by is not kept"


def test_commands_that_go_elsewhere_are_found_out_before_anything_is_run(tmp_path: Path) -> None:
    deaf = ENVIRONMENT.replace('context.config.get_main_option("sqlalchemy.url")', repr(f"sqlite:///{tmp_path}/app.db"))
    made = Made(tmp_path, ("", 'op.execute("DELETE FROM notes")'), environment=deaf)
    said = re.escape("do not reach the copy that `sqlalchemy.url` names: they found r2")
    with pytest.raises(AdapterError, match=said) as refused:
        made.plan()
    assert refused.value.permanent
    assert do(made.file, "SELECT count(*) FROM notes") == [(2,)]


def test_a_merge_goes_back_to_both_its_branches(tmp_path: Path) -> None:
    made = Made(tmp_path)
    project = Project.at(tmp_path)
    project.add("b1", "r1", 'op.create_table("one", sa.Column("id", sa.Integer))', 'op.drop_table("one")')
    project.add("b2", "r1", 'op.create_table("two", sa.Column("id", sa.Integer))', 'op.drop_table("two")')
    project.add("m1", ("b1", "b2"), "", "")
    project.add("d1", None, 'op.create_table("far", sa.Column("id", sa.Integer))', 'op.drop_table("far")', depends="m1")
    project.upgrade()
    assert [one.id for one in finish(made.schema.releases(), PATIENT)] == ["d1", "m1", "b1+b2", "b1", "r1", "base"]
    for text in ("b2\nb1\n", "b1+b2"):
        assert made.schema.named(text) == Release("b1+b2"), "as a release of the code names it in a file"
    for text in ("", "b1 b2/../..", "b1\0"):
        with pytest.raises(AdapterError, match="is no revision; write the one that it needs"):
            made.schema.named(text)
    change = made.plan("b1+b2")
    assert change.reversible
    assert finish(perform(made.schema, change), PATIENT) is Progress.DONE
    assert do(made.file, "SELECT version_num FROM alembic_version ORDER BY 1") == [("b1",), ("b2",)]


def test_who_writes_stops_it_before_and_what_broke_off_in_the_middle_is_a_persons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made(tmp_path, ("", 'op.execute("UPDATE notes SET id = id")'))
    change = made.plan()
    take = made.database.take

    async def taken(**given: Any) -> Any:
        found = await take(**given)
        do(made.file, "INSERT INTO notes (text) VALUES ('late')")
        return found

    monkeypatch.setattr(made.database, "take", taken)
    with pytest.raises(AdapterError, match="somebody wrote to db since it was copied") as refused:
        finish(made.schema.apply(change), PATIENT)
    assert not refused.value.permanent
    assert finish(made.schema.current()).id == "r2"
    monkeypatch.undo()

    def hook(name: str) -> None:
        if name == "alembic.rehearsed":
            raise KeyboardInterrupt

    boundary.hook = hook
    try:
        with pytest.raises(KeyboardInterrupt):
            finish(made.schema.apply(change), PATIENT)
    finally:
        boundary.hook = lambda _name: None
    do(made.file, "CREATE TABLE half (id)")
    with pytest.raises(AdapterError, match="a migration broke off; the present from before is whole") as refused:
        finish(made.schema.apply(change), PATIENT)
    assert refused.value.permanent


def test_what_a_kill_left_beside_the_database_is_gone_after_the_nights_pruning(tmp_path: Path) -> None:
    do(tmp_path / "app.db", "CREATE TABLE notes (id)")
    left = tmp_path / "app.db.rollbackd-try"
    left.mkdir()
    (left / "data.sqlite").write_bytes(b"half")
    finish(layer(tmp_path).prune())
    assert sorted(path.name for path in tmp_path.glob("app.db*")) == ["app.db"]


WRONG = """
daemon: {mode: act, open_on_loopback: true}
services:
  - name: checkout
    match: {service: checkout}
    layers:
      db: {adapter: sqlite, file: /srv/data/checkout.db}
      code: {adapter: git, repo: /srv/checkout}
      schema: {adapter: alembic, config: /srv/checkout/alembic.ini, python: /srv/venv/bin/python, database: db}
      other: {adapter: alembic, config: /srv/x/alembic.ini, python: /srv/venv/bin/python, database: code}
      third: {adapter: alembic, config: /srv/x/alembic.ini, python: /srv/venv/bin/python, database: nowhere}
    plans:
      code: [code]
      right: [schema, code]
      wrong: [code, schema]
      later: [schema]
    plan: [code, later]
    verify: {checks: [{http: http://127.0.0.1:3000/health}]}
"""


def test_a_plan_that_moves_the_code_before_its_migrations_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(WRONG)
    with pytest.raises(ConfigErrors) as refused:
        load(file)
    first = '"code" is moved before it, with the code that "schema" needs as it is now; name "schema" first'
    assert [str(one).partition("config.yaml:")[2] for one in refused.value.faults] == [
        '10:7: layer "code" is no database; name one of sqlite or postgres',
        '11:7: layer "nowhere" cannot be asked; name one that the service has',
        f"15:21: {first}",
        f"16:15: {first}",
    ]


# -- forward --------------------------------------------------------------------------------------
LOUD = "op.execute(\"INSERT INTO notes (text) VALUES ('r3 is applied')\")"
ONLY_LIVE = 'if "rollbackd" not in str(op.get_bind().engine.url):\n    raise RuntimeError("locked")'


class Behind(Made):
    """A project at r1 whose code has more migrations."""

    def __init__(self, path: Path, *more: str) -> None:
        super().__init__(path)
        project = Project.at(path)
        for n, up in enumerate(more, 2):
            project.add(f"r{n}", f"r{n - 1}", up, "")

    def upgrade(self, to: str = "") -> str:
        async def ordered() -> str:
            return str(await self.schema.upgrade(await self.schema.forward(to)))

        return finish(ordered(), PATIENT)

    def head(self) -> str:
        return str(do(self.file, "SELECT version_num FROM alembic_version")[0][0])

    def copies(self) -> dict[str, Any]:
        """The heads of each copy of the database."""
        return {path.parent.name: do(path, "SELECT version_num FROM alembic_version")[0][0] for path in self.stored()}

    def stored(self) -> list[Path]:
        return sorted(self.file.parent.glob("scratch/store/*/data.sqlite"))


def test_an_upgrade_copies_first_tries_the_way_on_the_copy_and_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    made = Behind(tmp_path, 'op.add_column("notes", sa.Column("mood", sa.String(9)))', LOUD)
    order = finish(made.schema.forward(), PATIENT)
    assert (order.before.id, order.after.id, order.risks) == ("r1", "r3", ("r2 (migration r2)", "r3 (migration r3)"))
    passed: list[str] = []

    def hook(name: str) -> None:
        passed.append(name)
        if name == "alembic.moved":
            raise KeyboardInterrupt

    boundary.hook = hook
    try:
        with pytest.raises(KeyboardInterrupt):
            finish(made.schema.upgrade(order), PATIENT)
    finally:
        boundary.hook = lambda _name: None
    assert passed.index("alembic.kept") < passed.index("alembic.rehearsed") < passed.index("alembic.moved")
    assert made.head() == "r2"
    with pytest.raises(AdapterError, match="an upgrade to r3 was cut off at r2; finish that first"):
        finish(made.schema.forward("r2"), PATIENT)
    said = (
        "contract/layer: an upgrade to r3 was cut off at r2; `rollbackd layer upgrade contract layer` goes on with it"
    )
    assert finish(made.schema.stands_midway()).startswith(f"{said}, and copy snapshot-before-")
    again = finish(made.schema.forward(), PATIENT)
    assert (again.key, again.before.id, again.after.id) == (order.key, "r1", "r3")
    copy = finish(made.schema.upgrade(again), PATIENT)
    assert made.head() == "r3"
    assert made.copies() == {copy: "r1"}, "one copy of one order, from before it"
    assert do(made.file, "SELECT count(*) FROM notes WHERE text = 'r3 is applied'") == [(1,)]
    assert finish(made.schema.stands_midway()) == ""
    there = finish(made.schema.forward(), PATIENT)
    assert there.before == there.after
    with pytest.raises(AdapterError, match="has no migration r9; `alembic history` lists them"):
        finish(made.schema.forward("r9"), PATIENT)


def test_an_upgrade_that_fails_says_where_it_is_and_which_copy_is_whole(tmp_path: Path) -> None:
    made = Behind(tmp_path, LOUD, 'raise RuntimeError("never")')
    with pytest.raises(AdapterError, match=r"r3 \(migration r3\) fails on a copy: .*never; nothing else was touched"):
        made.upgrade()
    assert made.head() == "r1"
    assert made.upgrade("r2")
    assert made.head() == "r2"

    Project.at(tmp_path).add("r3", "r2", ONLY_LIVE, "")
    with pytest.raises(
        AdapterError, match=r"RuntimeError .*: locked; it is at r2 now, and the present from before"
    ) as no:
        made.upgrade()
    assert no.value.permanent
    assert made.head() == "r2"
    Project.at(tmp_path).add("r3", "r2", LOUD, "")
    made.upgrade()
    assert made.head() == "r3"
    assert sorted(made.copies().values()) == ["r1", "r1", "r2", "r2"], "one before each order that began"
