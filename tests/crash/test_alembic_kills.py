"""Migrations, back and forward, killed at every boundary with all that was started: the next life ends what was begun.

One life goes the whole way. At each boundary all that it has started stands still, and what a kill would leave is
copied; boundaries that leave the same are one. Next lives go on from all that is left once the database itself is
touched, and from every sixth before, where each goes through a whole rehearsal: ROLLBACKD_SWEEP=1 has all. The project's
interpreter is a fork of one that has imported Alembic.
"""

import asyncio
import hashlib
import importlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rollbackd import facts
from rollbackd.adapter import AdapterError
from rollbackd.model import Progress, Release
from rollbackd.system import boundary
from rollbackd.testing import descendants, finish, perform, planned
from tests.contract.alembic_worlds import PATIENT, Project, schema_layer, standard
from tests.contract.test_adapters_alembic import do
from tests.contract.test_adapters_sqlite import layer
from tests.crash.lives import until, zygote
from tests.crash.world import World, of_kind

pytestmark = pytest.mark.timeout(1800)
_ASK = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    order = json.dumps([sys.argv[2:], dict(os.environ), os.getcwd()]).encode()
    socket.send_fds(server, [len(order).to_bytes(4)], [0, 1, 2])
    server.sendall(order)
    sys.exit(server.recv(1)[0])
"""
LOUD = "op.execute(\"INSERT INTO notes (text) VALUES ('r3 is applied')\")"


def serve(address: str) -> None:
    """Run jobs of the adapter's own script, each in a fork, as the project's interpreter would; to our input's end."""
    from rollbackd_adapters.alembic import migrations

    for name in ("alembic.command", "alembic.autogenerate", "sqlalchemy.dialects.sqlite"):
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen(8)
        print("ready", flush=True)
        while sys.stdin not in select.select([listening, sys.stdin], [], [])[0]:
            connection, _ = listening.accept()
            with connection:
                if os.fork() == 0:
                    head, streams, *_ = socket.recv_fds(connection, 4, 3)
                    text = b""
                    while len(text) < int.from_bytes(head):
                        text += connection.recv(2**16)
                    arguments, environment, directory = json.loads(text)
                    for number, stream in enumerate(streams):
                        os.dup2(stream, number)
                        os.close(stream)
                    os.environ.clear()
                    os.environ |= environment
                    os.chdir(directory)
                    connection.sendall(bytes([migrations.main(arguments)]))
                    os._exit(0)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The project's interpreter."""
    path = tmp_path_factory.mktemp("python")
    address = str(path / "socket")
    (path / "python").write_text(_ASK.format(python=sys.executable, address=address))
    (path / "python").chmod(0o755)
    argv = [sys.executable, "-m", "tests.crash.test_alembic_kills", address]
    pipe = subprocess.PIPE  # at whose end it ends
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield str(path / "python")


@dataclass(frozen=True)
class Shop:
    """A project and its database below a path."""

    path: Path
    python: str

    def schema(self) -> Any:
        return schema_layer(self.path, Project.at(self.path), layer(self.path), python=self.python)

    def at(self) -> str:
        return str(do(self.path / "app.db", "SELECT version_num FROM alembic_version")[0][0])

    def count(self, text: str) -> int:
        return int(do(self.path / "app.db", f"SELECT count(*) FROM notes WHERE text = '{text}'")[0][0])

    def copies(self) -> list[str]:
        """The revision of each copy that is one."""
        stored = sorted(self.path.glob("scratch/store/[!.]*/data.sqlite"))
        return [do(path, "SELECT version_num FROM alembic_version")[0][0] for path in stored]


def made(path: Path, python: str, at: str) -> Shop:
    project = Project(path, f"sqlite:///{path}/app.db")
    standard(project)
    project.upgrade(at)
    do(path / "app.db", "INSERT INTO notes (text) VALUES ('a'), ('b')")
    return Shop(path, python)


def _signal(processes: Sequence[int], number: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


def _is_still(process: int) -> bool:
    try:
        return (Path("/proc") / str(process) / "stat").read_text().rpartition(") ")[2][0] in "TZ"
    except OSError:
        return True


def kills(shop: Shop, into: Path, life: Callable[[], Coroutine[Any, Any, object]]) -> list[tuple[list[str], Shop]]:
    """What a kill at each boundary of a life leaves, with the names of those that leave it."""
    found: dict[str, tuple[list[str], Shop]] = {}

    def hook(name: str) -> None:
        started = descendants(os.getpid())
        _signal(started, signal.SIGSTOP)
        while not all(map(_is_still, started)):
            time.sleep(0.001)
        left = _hash(shop.path)
        if left not in found:
            found[left] = [], Shop(into / str(len(found)), shop.python)
            shutil.copytree(shop.path, found[left][1].path, ignore=shutil.ignore_patterns("locks"))
        found[left][0].append(name)
        _signal(started, signal.SIGCONT)

    boundary.hook = hook
    try:
        finish(life(), PATIENT)
    finally:
        boundary.hook = lambda _name: None
    left, every = list(found.values()), 1 if os.environ.get("ROLLBACKD_SWEEP") else 6
    touched = next(n for n, (names, _) in enumerate(left) if "alembic.rehearsed" in names)
    return [*left[:touched:every], *left[touched:]]


def _hash(path: Path) -> str:
    files = sorted(one for one in path.rglob("*") if one.is_file() and "locks" not in one.parts)
    text = [f"{one.relative_to(path)} {hashlib.sha256(one.read_bytes()).hexdigest()}" for one in files]
    return hashlib.sha256("\n".join(text).encode()).hexdigest()


def test_a_way_back_killed_at_each_boundary_is_finished_by_the_next_life(tmp_path: Path, python: str) -> None:
    shop = made(tmp_path / "whole", python, "r3")
    change = finish(planned(shop.schema(), Release("r2")), PATIENT)
    left = kills(shop, tmp_path, lambda: perform(shop.schema(), change))
    stood = set()
    for name, killed in left:
        stood.add(killed.at())
        assert finish(perform(killed.schema(), change), PATIENT) is Progress.DONE, name
        assert killed.at() == "r2", name
        assert killed.count("r3 is taken back") == 1, name
        assert set(killed.copies()) == {"r3"}, name
    assert stood == {"r3", "r2"}


def test_an_upgrade_killed_at_each_boundary_is_finished_by_the_same_order(tmp_path: Path, python: str) -> None:
    shop = made(tmp_path / "whole", python, "r1")
    Project.at(shop.path).add("r3", "r2", LOUD, "")
    order = finish(shop.schema().forward(), PATIENT)
    left = kills(shop, tmp_path, lambda: shop.schema().upgrade(order))
    stood = set()
    for name, killed in left:
        stood.add(killed.at())
        schema = killed.schema()
        again = finish(schema.forward(), PATIENT)
        goes_on = again.key == order.key
        assert goes_on or killed.at() == "r1", f"{name}: nothing is begun anew midway"
        if killed.at() == "r2":
            with pytest.raises(AdapterError, match="was cut off at r2; finish that first"):
                finish(schema.forward("r2"), PATIENT)
        copy = finish(schema.upgrade(again), PATIENT) if again.before != again.after else ""
        assert killed.at() == "r3", name
        assert killed.count("r3 is applied") == 1, name
        assert set(killed.copies()) == {"r1"}, f"{name}: what was there before is in a copy"
        assert not copy or (killed.path / f"scratch/store/{copy}/data.sqlite").is_file()
    assert stood == {"r1", "r2", "r3"}


async def test_an_order_goes_on_without_its_command_and_its_cut_off_is_told_after_the_daemons_end(
    tmp_path: Path, python: str
) -> None:
    shop = made(tmp_path / "shop", python, "r1")
    project = Project.at(shop.path)
    project.add("r4", "r3", "", "")
    async with zygote() as mother:
        world = World(tmp_path / "daemon", mother)
        schema = {"adapter": "alembic", "config": str(project.config), "python": python, "database": "db"}
        layers = {
            "db": {"adapter": "sqlite", "file": str(shop.path / "app.db"), "room": 0},
            "schema": {**schema, "url_env": "DATABASE_URL", "timeout": "10m"},
        }
        verify = {"checks": [{"tcp": "127.0.0.1:1"}]}
        service = {"name": "shop", "match": {"service": "shop"}, "layers": layers, "verify": verify}
        world.configure([{**service, "plans": {"schema": ["schema"]}, "plan": "schema"}])
        path, order = "/api/v1/services/shop/upgrade", {"layer": "schema", "over_hold": False}

        async def is_at(revision: str) -> None:
            async def there() -> bool:
                return shop.at() == revision

            await until(there, f"the schema is at {revision}; log: {world.log[-2000:]}", PATIENT.total_seconds())

        def ordered(to: str) -> asyncio.Future[Any]:
            return asyncio.ensure_future(world.ask("POST", path, {**order, "to": to}))

        async def is_announced() -> bool:
            return world.counted("SELECT count(*) FROM facts WHERE kind = 'Announced'") == 1

        await world.begin()
        command = ordered("r2")
        await until(is_announced, f"the order was taken; log: {world.log[-2000:]}")
        command.cancel()
        await is_at("r2")
        assert await world.life.stop() == 0  # type: ignore[union-attr]

        await world.begin(named="alembic.moved")
        command = ordered("")
        await is_at("r3")
        assert await world.life.ended() == -9  # type: ignore[union-attr]
        command.cancel()
        await world.begin()
        assert await world.has("Notice", "shop/schema: an upgrade to r4 was cut off at r3; `rollbackd layer upgrade")
        assert shop.at() == "r3", "only a person goes on with it"
        command = ordered("")
        await is_at("r4")
        command.cancel()
        assert await world.life.stop() == 0  # type: ignore[union-attr]
        announced = of_kind(await world.checked(), facts.Announced)
        assert [one.releases["schema"] for one in announced] == ["r2", "r4"], "one order is one change"


if __name__ == "__main__":
    serve(sys.argv[1])
