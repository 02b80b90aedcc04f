"""`run_as`: what a step runs is another user's, with nothing of root's; what keeps it is still rollbackd's."""

import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rollbackd.adapter import Adapter, AdapterError
from rollbackd.model import Progress
from rollbackd.testing import finish, perform, place, planned
from rollbackd_adapters.command import CommandAdapter, CommandSettings
from rollbackd_adapters.git import GitAdapter, GitSettings
from rollbackd_adapters.releases import ReleasesAdapter, ReleasesSettings
from tests.contract.test_adapters_releases import ReleasesWorld
from tests.contract.worlds import CommandWorld, GitCheckoutWorld, script

pytestmark = pytest.mark.needs("root")

WHO = "nobody"
LOOK = 'echo "$(id -u) $(id -g) $(id -G) $HOME ${{USER:-none}} $(grep NoNewPrivs /proc/self/status | cut -f2)" >> {log}'


def open_to_all(path: Path) -> Path:
    """A file that anybody may append to, in directories that anybody may enter."""
    for each in path.parents:
        if each.stat().st_uid == 0 and each != Path("/"):
            each.chmod(each.stat().st_mode | 0o011)
    path.touch()
    path.chmod(0o666)
    return path


def releases(path: Path, program: str, **more: Any) -> Adapter:
    world = ReleasesWorld(path)
    given = {**world.settings().model_dump(), "then": [[program]], **more}
    return ReleasesAdapter(ReleasesSettings.model_validate(given), place(path))


def git(path: Path, program: str, **more: Any) -> Adapter:
    world = GitCheckoutWorld(path)
    given = {"adapter": "git", "repo": str(world.repo), "then": [[program]], **more}
    (path / "repo").chmod(0o755)
    return GitAdapter(GitSettings.model_validate(given), place(path))


def command(path: Path, program: str, **more: Any) -> Adapter:
    world = CommandWorld(path)
    given = {**world.adapter()._settings.model_dump(), **more}
    apply = Path(world.programs["apply"])
    apply.write_text(apply.read_text() + f"{program}\n")
    for made in path.iterdir():
        made.chmod(0o777)
    path.chmod(0o777)
    return CommandAdapter(CommandSettings.model_validate(given), place(path))


KINDS: list[Callable[..., Adapter]] = [releases, git, command]


def go(adapter: Adapter) -> Any:
    target = finish(adapter.releases())[-1]
    return finish(perform(adapter, finish(planned(adapter, target))))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("who", [WHO, ""])
def test_a_releases_own_code_runs_as_whom_it_should(tmp_path: Path, kind: Callable[..., Adapter], who: str) -> None:
    log = open_to_all(tmp_path / "log")
    program = script(tmp_path / "look", LOOK.format(log=log))
    adapter = kind(tmp_path / "world", program, run_as=who)
    assert list(finish(adapter.ready())) == []
    assert go(adapter) is Progress.DONE
    user, group, *groups, home, name, _privileges = log.read_text().split()
    known = pwd.getpwnam(WHO) if who else None
    assert user == (str(known.pw_uid) if known else "0")
    if known is not None:
        assert group == str(known.pw_gid)
        assert set(groups) == set(map(str, os.getgrouplist(WHO, known.pw_gid))), "no group of root's is left"
        assert (home, name) == (known.pw_dir, WHO)


@pytest.mark.parametrize("kind", KINDS)
def test_it_cannot_touch_what_rollbackd_keeps(tmp_path: Path, kind: Callable[..., Adapter]) -> None:
    log = open_to_all(tmp_path / "log")
    scratch = tmp_path / "world" / "scratch"
    program = script(tmp_path / "look", f"(echo x > {scratch}/mine && echo wrote || echo denied) >> {log} 2>/dev/null")
    adapter = kind(tmp_path / "world", program, run_as=WHO)
    scratch.chmod(0o700)
    assert go(adapter) is Progress.DONE
    assert log.read_text() == "denied\n"


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_that_hangs_as_somebody_else_is_ended_all_the_same(tmp_path: Path, kind: Callable[..., Adapter]) -> None:
    open_to_all(tmp_path / "log")
    program = script(tmp_path / "look", "trap '' TERM; sleep 1000")
    adapter = kind(tmp_path / "world", program, run_as=WHO, timeout="300ms")
    with pytest.raises(AdapterError, match="took longer than its limit"):
        go(adapter)
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(program).encode() in _read(path)]
    assert left == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("kind", KINDS)
def test_who_cannot_be_is_told_before_anything_is_touched(
    tmp_path: Path, kind: Callable[..., Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_to_all(tmp_path / "log")
    program = script(tmp_path / "look", "true")
    (problem,) = finish(kind(tmp_path / "a", program, run_as="nobody-of-that-name").ready())
    assert problem.text == "run_as: there is no user nobody-of-that-name on this host; make it, or correct the name"
    adapter = kind(tmp_path / "b", program, run_as=WHO)
    monkeypatch.setattr("rollbackd.system.users.os.geteuid", lambda: 4711)
    texts = [problem.text for problem in finish(adapter.ready())]
    assert any("only root may run programs as somebody else, and rollbackd runs as 4711" in text for text in texts)


@pytest.mark.parametrize("name", ["0", "-u", "a b", "root:root", "../x", "a" * 65])
def test_what_is_no_users_name_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="cannot be the name of a user"):
        GitSettings.model_validate({"adapter": "git", "repo": "/srv/x", "run_as": name})
