"""What is asked of a project's migrations, done by the project's own interpreter: `python migrations.py JOB`, JSON.

It stands alone and knows only Alembic and SQLAlchemy as the project has them. The answer is JSON in the last line that
begins with `rollbackd:`; whatever env.py prints goes to standard error.

https://alembic.sqlalchemy.org/en/latest/api/
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ANSWER = "rollbackd:"
_DEFINES = re.compile(r"\s*(CREATE|DROP|ALTER|REINDEX)\b", re.IGNORECASE)
_SHOWN = 300
_LOST = ("08", "53", "57")
"""Classes of errors of a server that goes, or is not there yet."""


class Abandoned(Exception):  # noqa: N818  # an order
    """The migration was run to its end and is to be taken back: what is left of it was committed midway."""


class NotOne(Exception):  # noqa: N818  # an answer
    """What env.py does is not what one database needs; the sentence says what."""


def _configured(job: dict[str, Any]) -> Any:
    from alembic.config import Config

    config = Config(job["config"], ini_section=job["section"])
    if job.get("url"):
        config.set_main_option("sqlalchemy.url", job["url"].replace("%", "%%"))
    return config


def graph(job: dict[str, Any]) -> dict[str, Any]:
    """Each migration: those that it comes after, its first words, and a hash of its file."""
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(_configured(job))
    environment = f"{script.dir}/env.py"
    found, files = {}, {job["config"], environment}
    for one in script.walk_revisions():
        down = getattr(one, "_all_down_revisions", ())  # with `depends_on`, resolved
        found[one.revision] = {"down": sorted(down), "about": _one_line(one.doc or ""), "sha256": _hash(one.path)}
        files |= {one.path, str(Path(one.path).parent)}
    return {"graph": found, "environment": _hash(environment), "files": sorted(files)}


def _hash(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return ""


def heads(job: dict[str, Any]) -> dict[str, Any]:
    """What the project's own commands find in the version table."""
    seen: list[Any] = []

    def look(found: Any, _script: Any) -> list[Any]:
        seen.extend(found)
        return []

    _in_environment(job, look, dont_mutate=True)
    return {"heads": sorted(seen)}


def move(job: dict[str, Any]) -> dict[str, Any]:
    """Take migrations, up or down, in the order given; to be abandoned at their end, where that is wanted."""
    from alembic.runtime.migration import MigrationStep

    def steps(_found: Any, script: Any) -> list[Any]:
        make: Any = MigrationStep.upgrade_from_script if job["up"] else MigrationStep.downgrade_from_script
        made = [make(script.revision_map, script.get_revision(revision)) for revision in job["revisions"]]
        if job["abandon"]:
            made[-1].migration_fn = _abandoned(made[-1].migration_fn)
        return made

    _as_one_transaction()
    with contextlib.suppress(Abandoned):
        _in_environment(job, steps)
    return {}


def _abandoned(work: Callable[..., None]) -> Callable[..., None]:
    def abandon(**keywords: object) -> None:
        work(**keywords)
        raise Abandoned

    return abandon


def _in_environment(job: dict[str, Any], work: Callable[[Any, Any], list[Any]], **options: Any) -> None:
    """Run env.py, for one database. :raises NotOne: it migrates none, or several."""
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    config = _configured(job)
    script = ScriptDirectory.from_config(config)
    times = []

    def once(found: Any, _context: Any) -> list[Any]:
        times.append(found)
        if len(times) > 1:
            raise NotOne("env.py migrates several databases; give this layer a `config` that is of one alone")
        return work((found,) if isinstance(found, str) else tuple(found or ()), script)

    with EnvironmentContext(config, script, fn=once, as_sql=False, **options):
        script.run_env()
    if not times:
        raise NotOne("env.py migrates nothing when it is run; look at what it does online")


def _as_one_transaction() -> None:
    """Python's sqlite3 begins no transaction before what defines; without one a kill leaves half a migration."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def begin(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if connection.dialect.name != "sqlite" or _DEFINES.match(statement) is None:
            return
        pooled = connection.connection
        raw = getattr(pooled, "dbapi_connection", None) or getattr(pooled, "connection", None)
        if getattr(raw, "isolation_level", None) is not None and not getattr(raw, "in_transaction", True):
            cursor.execute("BEGIN IMMEDIATE")

    event.listen(Engine, "before_cursor_execute", begin)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_SHOWN]


def _said(error: BaseException, project: str) -> str:
    """What failed, and where in the project; of a database's error its first line alone, since others quote rows."""
    origin = getattr(error, "orig", None) or error
    primary = getattr(getattr(origin, "diag", None), "message_primary", None)
    text = primary or next(iter(str(origin).splitlines()), "")
    where, trace = "", error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if file.startswith(f"{project}/") and "site-packages" not in file:
            where = f" at {file[len(project) + 1 :]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return _one_line(f"{type(origin).__name__}{where}: {text}")


def _is_lost(error: BaseException) -> bool:
    """Whether it was the way to the database that broke, or the server: it says nothing of a migration."""
    origin = getattr(error, "orig", None) or error
    if getattr(error, "connection_invalidated", False) or isinstance(origin, ConnectionError):
        return True
    codes = [getattr(origin, name) for name in ("sqlstate", "pgcode") if hasattr(origin, name)]
    if any(codes):
        return any(code[:2] in _LOST for code in codes if code)
    return bool(codes) and type(origin).__name__ == "OperationalError"  # psycopg has no code of who is not there


_DO = {one.__name__: one for one in (graph, heads, move)}


def main(arguments: list[str]) -> int:
    """Do one job."""
    job = json.loads(arguments[0])
    answer_to = os.dup(1)
    os.dup2(2, 1)
    try:
        answer = _DO[job["do"]](job)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # env.py and migrations may raise anything
        answer = {"error": _said(error, str(Path(job["config"]).parent)), "lost": _is_lost(error)}
    sys.stdout.flush()
    os.write(answer_to, f"\n{ANSWER} {json.dumps(answer)}\n".encode())
    return 1 if "error" in answer else 0


if __name__ == "__main__":
    here = str(Path(__file__).parent)
    sys.path[:] = [path for path in sys.path if path != here]
    sys.exit(main(sys.argv[1:]))
