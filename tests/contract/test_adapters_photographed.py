"""What every adapter that touches something changes is what its plan told, as root and with a login's umask; and back
again the world is as it was. Trees of files and repositories have files of their own for this.
"""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rollbackd.model import NO_RELEASE, Change, Progress
from rollbackd.testing import KEY, BracketWorld, World, finish, perform, planned
from tests.contract.nginx_worlds import ColourWorld, PageWorld, running
from tests.contract.over import RemoteWorld
from tests.contract.test_adapters_drain import CommandWorld as DrainWorld
from tests.contract.test_adapters_env import FILE, EnvWorld
from tests.contract.test_adapters_freeze import FileWorld, RefWorld
from tests.contract.test_adapters_http import HttpWorld, board  # noqa: F401
from tests.contract.test_adapters_redis import PatternWorld, RedisWorld, Server, server  # noqa: F401
from tests.contract.test_adapters_releases import ReleasesWorld
from tests.contract.worlds import CommandWorld, MaintenanceWorld, RestartWorld
from tests.photograph import Photograph, assert_as_before, assert_told, differences, photograph
from tests.sshd import sshd

RANDOM = settings(
    max_examples=15,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
STRANGER = 65534


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """That of a careful person's login, which is what a daemon started by hand has."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def seen(path: Path) -> Photograph:
    """All of a world but the adapter's scratch and locks."""
    return photograph(path, without=[path / "scratch", path / "locks"])


def there_and_back(world: World, path: Path, *, moved: list[Path], own: list[Path] | None = None) -> None:
    """Go to the target and back again; photographs before, between and after keep the law."""
    ours, before = own or [], seen(path)
    there = finish(planned(world.adapter(), world.target()))
    assert differences(before, seen(path)) == {}
    assert finish(perform(world.adapter(), there)) is Progress.DONE
    between = seen(path)
    assert_told(before, between, there, moved=moved, own=ours)
    assert {*differences(before, between)} & {*map(str, moved)}
    back = finish(planned(world.adapter(), there.before, "contract-2/0/layer"))
    assert finish(perform(world.adapter(), back)) is Progress.DONE
    assert_as_before(before, seen(path), there, moved=moved, own=ours)


def in_and_out(world: BracketWorld, path: Path, *, moved: list[Path], own: list[Path] | None = None) -> Photograph:
    """Enter and leave; the photograph from within."""
    ours, before = own or [], seen(path)
    finish(world.adapter().inside(KEY))
    assert differences(before, seen(path)) == {}
    finish(world.adapter().enter(KEY))
    inside = seen(path)
    assert_told(before, inside, Change("layer", NO_RELEASE, NO_RELEASE), moved=moved, own=ours)
    finish(world.adapter().leave(KEY))
    assert_as_before(before, seen(path), Change("layer", NO_RELEASE, NO_RELEASE), moved=moved, own=ours)
    return inside


# -- a file of variables ------------------------------------------------------------------------
@pytest.mark.needs("root")
@given(
    owner=st.sampled_from([0, STRANGER]),
    group=st.sampled_from([0, 33, STRANGER]),
    mode=st.sampled_from([0o600, 0o640, 0o644, 0o664, 0o4755, 0o2750]),
    note=st.booleans(),
    above=st.sampled_from([0o755, 0o2775, 0o1777]),
    text=st.sampled_from(
        [
            FILE,
            FILE.replace("\n", "\r\n"),
            f"{FILE}\n\udcff=\x00",
            f"RAG_INDEX_VERSION=1\n{FILE}\n\n",
            "KB_WRITE_MODE=full\nRAG_ENABLED=true\nRAG_INDEX_VERSION=2",
        ]
    ),
)
@RANDOM
def test_any_file_of_variables(
    tmp_path: Path, owner: int, group: int, mode: int, note: bool, above: int, text: str
) -> None:
    shutil.rmtree(tmp_path / "world", ignore_errors=True)
    world = EnvWorld(tmp_path / "world", "")
    world.file.write_bytes(text.encode(errors="surrogateescape"))
    (world.path / "beside").write_text("of nobody's business\n")
    world.path.chmod(above)
    os.chown(world.path, STRANGER, 33)
    os.chown(world.file, owner, group)
    world.file.chmod(mode)
    if note:
        os.setxattr(world.file, "user.note", b"1")
        os.setxattr(world.file, "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    there_and_back(world, world.path, moved=[world.file])


# -- a link to a release ------------------------------------------------------------------------
@pytest.mark.needs("root")
@given(
    relative=st.booleans(),
    owner=st.sampled_from([0, STRANGER]),
    group=st.sampled_from([0, 33]),
    above=st.sampled_from([0o755, 0o2775, 0o1777]),
    keep=st.sampled_from([0, 2]),
)
@RANDOM
def test_any_link_to_a_release(tmp_path: Path, relative: bool, owner: int, group: int, above: int, keep: int) -> None:
    shutil.rmtree(tmp_path / "world", ignore_errors=True)
    world = ReleasesWorld(tmp_path / "world", relative=relative, then=False, keep=keep)
    os.lchown(world.link, owner, group)
    world.link.parent.chmod(above)
    os.chown(world.link.parent, STRANGER, 33)
    there_and_back(world, world.path, moved=[world.link])


# -- nginx --------------------------------------------------------------------------------------
@pytest.mark.needs("root", "nginx")
@pytest.mark.parametrize("owner", [0, STRANGER])
def test_a_link_that_nginx_includes(tmp_path: Path, owner: int) -> None:
    with running(tmp_path / "nginx") as nginx:
        logs = [nginx.path / "error.log", nginx.path / "nginx.pid"]
        colour = ColourWorld(nginx)
        os.lchown(colour.link, owner, owner)
        there_and_back(colour, nginx.path, moved=[colour.link], own=logs)
        page = PageWorld(nginx)
        in_and_out(page, nginx.path, moved=[page.link], own=logs)


@pytest.mark.needs("nginx")
def test_what_else_a_reload_of_nginx_loads_is_told(tmp_path: Path) -> None:
    with running(tmp_path / "nginx") as nginx:
        colour = ColourWorld(nginx)
        other = nginx.path / "conf.d" / "zz-other.conf"
        other.write_text('location = /other { return 200 "old"; }\n')
        nginx.reload()
        assert finish(colour.adapter().plan(colour.target())).risks == ()
        other.write_text('location = /other { return 200 "new"; }\n')
        os.utime(other, (time.time() + 1, time.time() + 1))
        change = finish(planned(colour.adapter(), colour.target()))
        assert nginx.body("/other") == "old"
        assert finish(perform(colour.adapter(), change)) is Progress.DONE
        assert nginx.body("/other") == "new"
        assert [str(other) in risk for risk in change.risks] == [True]


# -- brackets -----------------------------------------------------------------------------------
@pytest.mark.needs("root")
def test_a_lock_file_that_deployments_of_other_users_can_read(tmp_path: Path) -> None:
    world = FileWorld(tmp_path)
    tmp_path.chmod(0o2775)
    os.chown(tmp_path, STRANGER, 33)
    inside = in_and_out(world, tmp_path, moved=[world.file])
    assert inside[str(world.file)].mode == 0o644


@pytest.mark.needs("git")
def test_a_ref_that_ci_looks_at(tmp_path: Path) -> None:
    world = RefWorld(tmp_path)
    before = photograph(world.origin)
    in_and_out(world, tmp_path, moved=[], own=[world.origin])
    found = {path for path, _ in differences(before, photograph(world.origin)).items() if "/objects/" not in path}
    assert found <= {str(world.origin / "packed-refs"), str(world.origin / "refs" / "heads")}, found


def test_what_stops_sessions_by_commands(tmp_path: Path) -> None:
    world = DrainWorld(tmp_path)
    in_and_out(world, tmp_path, moved=[world.flag], own=[world.log])


def test_what_is_entered_by_commands(tmp_path: Path) -> None:
    world = MaintenanceWorld(tmp_path)
    before = seen(tmp_path)
    finish(world.adapter().enter(KEY))
    finish(world.adapter().leave(KEY))
    left = set(differences(before, seen(tmp_path)))
    assert left <= {str(world.log)}, left


# -- commands, URLs, other hosts ----------------------------------------------------------------
def test_what_goes_by_commands(tmp_path: Path) -> None:
    world = CommandWorld(tmp_path)
    before = seen(tmp_path)
    change = finish(planned(world.adapter(), world.target()))
    assert differences(before, seen(tmp_path)) == {}
    assert finish(perform(world.adapter(), change)) is Progress.DONE
    assert finish(perform(RestartWorld(tmp_path / "restart").adapter(), Change("layer", NO_RELEASE, NO_RELEASE, key=KEY))) is Progress.DONE  # fmt: skip


def test_what_goes_by_urls_touches_no_file(board: Any, tmp_path: Path) -> None:  # noqa: F811
    world = HttpWorld(board, tmp_path)
    before = seen(tmp_path)
    change = finish(planned(world.adapter(), world.target()))
    assert world.desk.jobs == {}
    assert finish(perform(world.adapter(), change)) is Progress.DONE
    assert differences(before, seen(tmp_path)) == {}


@pytest.mark.needs("root", "sshd", "ssh", "ssh-keygen")
def test_layers_of_another_host(tmp_path: Path) -> None:
    with sshd(tmp_path / "sshd") as host:
        env = EnvWorld(tmp_path / "env" / "world")
        os.chown(env.file, STRANGER, 33)
        there_and_back(RemoteWorld(tmp_path / "env", host, env, ["releases", "step"]), env.path, moved=[env.file])
        link = ReleasesWorld(tmp_path / "link" / "world", then=False)
        os.lchown(link.link, STRANGER, 33)
        there_and_back(RemoteWorld(tmp_path / "link", host, link, ["releases", "step"]), link.path, moved=[link.link])


# -- Redis --------------------------------------------------------------------------------------
def _keys(port: Server, number: int) -> dict[str, object]:
    """All keys of a database, with what they hold and for how long."""
    names = port.ask("KEYS", "*", db=number).splitlines()
    digest = "redis.sha1hex(redis.call('DUMP', KEYS[1]))"
    return {
        name: port.ask("EVAL", f"return {{{digest}, redis.call('TTL', KEYS[1])}}", "1", name, db=number)
        for name in names
    }


@pytest.mark.needs("redis-server")
@pytest.mark.parametrize("kind", [RedisWorld, PatternWorld])
def test_keys_of_a_redis(server: Server, tmp_path: Path, kind: type[RedisWorld]) -> None:  # noqa: F811
    world, other = kind(server, tmp_path), next(server.databases)
    for number in (world.db, other):
        server.ask("EVAL", "redis.call('HSET', 'cart:1', 'a', '1')", "0", db=number)
        server.ask("SET", "sessions", "of another name", db=number)
    before = {number: _keys(server, number) for number in (world.db, other)}
    change = finish(planned(world.adapter(), NO_RELEASE))
    assert {number: _keys(server, number) for number in (world.db, other)} == before
    assert finish(perform(world.adapter(), change)) is Progress.DONE
    assert _keys(server, other) == before[other]
    left, (told,) = _keys(server, world.db), change.risks
    whole = kind is RedisWorld
    assert f"removes all {len(before[world.db])} keys" in told if whole else "keys that match session:*" in told
    assert {name for name in before[world.db] if name not in left} == (
        {*before[world.db]} if whole else {name for name in before[world.db] if name.startswith("session:")}
    )
    assert all(left[name] == before[world.db][name] for name in {*left} & {*before[world.db]})
    for name in {*left} - {*before[world.db]}:
        assert ":".join(name.split(":")[:2]) in told, f"{name} is new, and the plan did not tell it ({told})"
