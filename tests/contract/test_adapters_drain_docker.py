"""Adapter `drain` counts the containers of a real dockerd: the contract, and what happens when it does not answer."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import pytest

from rollbackd.adapter import AdapterError
from rollbackd.system import boundary
from rollbackd.testing import KEY, BracketContract, BracketWorld, finish, kill, place
from rollbackd_adapters.drain import DrainAdapter, DrainSettings
from tests.contract.worlds import script
from tests.dockerd import PROGRAMS, Dockerd
from tests.servers import wait_until

pytestmark = pytest.mark.needs(*PROGRAMS)


class DeskWorld(BracketWorld):
    """A desk whose sessions are containers; who enters puts a flag there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.flag = path / "draining"
        self.log = path / "log"
        self.end = path / "end"
        """A session ends when `now` is in there."""
        self.end.mkdir(parents=True)
        self.log.touch()
        self._command = {
            "enter": [script(path / "bin/enter", f"[ -e {self.flag} ] || echo in >> {self.log}", f"touch {self.flag}")],
            "leave": [script(path / "bin/leave", f"rm -f {self.flag}", f"echo out >> {self.log}")],
        }

    def adapter(self, **settings: Any) -> DrainAdapter:
        known = {"adapter": "drain", "command": self._command, "docker": "role=session", "every": "100ms", **settings}
        return DrainAdapter(DrainSettings.model_validate(known), place(self.path))

    def begin(self, docker: Dockerd) -> str:
        """One session more; its container."""
        mount = f"--volume={self.end}:/end:ro"
        loop = "while [ ! -e /end/now ]; do sleep 0.02; done"
        return docker.run("sh", "-c", loop, options=["--label=role=session", mount])

    def inside(self) -> bool:
        return self.flag.exists()

    def crossings(self) -> int:
        return len(self.log.read_text().splitlines())


@pytest.fixture(autouse=True)
def _context(docker: Dockerd, monkeypatch: pytest.MonkeyPatch) -> None:
    """This dockerd is the context of the daemon's user."""
    monkeypatch.setenv("HOME", str(docker.home))


@pytest.fixture(scope="module")
def _beside(docker: Dockerd) -> Iterator[None]:
    """A container that is no session, and a session that is over."""
    docker.run("sleep", "1000", options=["--label=role=server"])
    docker.docker("wait", docker.run("true", options=["--label=role=session"]))
    yield
    docker.remove_all()


@pytest.fixture
def desk(docker: Dockerd, tmp_path: Path, _beside: None) -> Iterator[DeskWorld]:
    """A desk with one session."""
    world = DeskWorld(tmp_path)
    session = world.begin(docker)
    yield world
    (world.end / "now").touch()
    docker.docker("wait", session)


class TestDrainByDocker(BracketContract):
    def make_world(self, path: Path) -> BracketWorld:
        return DeskWorld(path)


def test_a_session_in_a_container_is_waited_for_until_it_has_ended(desk: DeskWorld) -> None:
    after: list[str] = []

    def hook(name: str) -> None:
        if after or name == "drain.entered":
            after.append(name)
        if after.count("process.ended") == 2:
            (desk.end / "now").touch()

    boundary.hook = hook
    finish(desk.adapter().enter(KEY))
    assert after.count("process.ended") > 2
    assert finish(desk.adapter().inside(KEY))
    finish(desk.adapter().leave(KEY))
    assert desk.log.read_text() == "in\nout\n"


def test_at_the_limit_it_goes_on_or_fails_as_it_says(desk: DeskWorld, docker: Dockerd) -> None:
    paused = desk.begin(docker)
    docker.docker("pause", paused)
    finish(desk.adapter(limit="300ms", at_most=1).enter(KEY))
    assert finish(desk.adapter().inside(KEY)), "what goes on is entered"
    finish(desk.adapter().leave(KEY))
    with pytest.raises(
        AdapterError, match=r"2 sessions are left after 300ms; new ones are taken again\. End them"
    ) as no:
        finish(desk.adapter(limit="300ms", at_limit="fail").enter(KEY))
    assert no.value.permanent
    assert not desk.inside()
    assert not finish(desk.adapter().inside(KEY))
    assert len(docker.docker("ps", "--quiet").split()) == 3, "no container is touched"
    docker.docker("unpause", paused)


def test_killed_while_it_waits_the_next_life_waits_on(desk: DeskWorld) -> None:
    counted = desk.path / "counted"

    def hook(_name: str) -> None:
        with counted.open("a") as file:
            file.write(".")

    life = os.fork()
    if life == 0:
        with suppress(BaseException):  # pytest must not run on in here
            boundary.hook = hook
            finish(desk.adapter().enter(KEY))
        os._exit(0)
    wait_until(lambda: counted.exists() and counted.stat().st_size > 12, "it counts")
    kill(life, descending=True)
    os.waitpid(life, 0)
    assert not finish(desk.adapter().inside(KEY))
    (desk.end / "now").touch()
    finish(desk.adapter().enter(KEY))
    assert finish(desk.adapter().inside(KEY))
    assert desk.log.read_text() == "in\n"


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (Dockerd.hanging, "took longer than its limit; does dockerd run?"),
        (Dockerd.away, "Is the docker daemon running?; does dockerd run?"),
    ],
    ids=["hangs", "is down"],
)
def test_a_dockerd_that_does_not_answer_is_waited_for_until_the_limit(
    docker: Dockerd, tmp_path: Path, trouble: Callable[[Dockerd], AbstractContextManager[None]], said: str
) -> None:
    world = DeskWorld(tmp_path)
    limits = {"limit": "250ms", "answer_within": "200ms"}
    failing, going_on = world.adapter(**limits, at_limit="fail"), world.adapter(**limits)
    assert finish(world.adapter(at_limit="fail").ready()) == []
    with trouble(docker):
        (problem,) = finish(failing.ready())
        assert said in problem.text
        assert finish(going_on.ready()) == [], "it would go on"
        with pytest.raises(AdapterError) as failed:
            finish(failing.enter(KEY))
        assert "sessions cannot be counted (`docker ps" in str(failed.value)
        assert f"{said}) after 250ms; new ones are taken again. Mend that" in str(failed.value)
        assert not world.inside()
        finish(going_on.enter(KEY))
        assert finish(going_on.inside(KEY))


def test_who_may_not_ask_dockerd_is_told_before_anything_is_entered(
    docker: Dockerd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.which("docker")
    as_nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups"
    script(tmp_path / "bin" / "docker", f"export DOCKER_HOST={docker.host}", f'exec {as_nobody} {real} "$@"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (problem,) = finish(DeskWorld(tmp_path / "desk").adapter().ready())
    assert "permission denied" in problem.text
    assert problem.text.endswith("; add rollbackd's user to the group docker")
