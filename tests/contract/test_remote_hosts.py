"""The same layer on several hosts is one layer: what a part of them does is never taken for all."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rollbackd.adapter import AdapterError
from rollbackd.model import Progress, Release
from rollbackd.testing import finish, perform, place, planned
from rollbackd_adapters.remote import Remote, RemoteSettings
from tests.contract.over import HERE, NOWHERE, THERE, served
from tests.contract.worlds import CommandWorld, script
from tests.sshd import Sshd, sshd

pytestmark = pytest.mark.needs("sshd", "ssh", "ssh-keygen")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


class Pair:
    """The same layer on 127.0.0.1 and on 127.0.0.2."""

    def __init__(self, path: Path, server: Sshd) -> None:
        self.path = path
        self.one, self.two = CommandWorld(path / "one"), CommandWorld(path / "two")
        self._reach = server.serve(path / "far-one", {"layer": served(self.one)})
        server.serve(path / "far-two", {"layer": served(self.two)}, host=2, key=Path(self._reach["identity"]))

    def adapter(self, *hosts: str, **settings: Any) -> Remote:
        given = {**self._reach, "hosts": list(hosts or (HERE, THERE)), "timeout": "20s", **settings}
        return Remote(RemoteSettings.model_validate(given), place(self.path / "near"))

    @property
    def present(self) -> tuple[str, str]:
        return self.one.present(), self.two.present()

    @property
    def finished(self) -> tuple[int, int]:
        return self.one.finished(), self.two.finished()


@pytest.fixture
def pair(tmp_path: Path, server: Sshd) -> Pair:
    return Pair(tmp_path, server)


def test_all_hosts_go_to_one_release(pair: Pair) -> None:
    adapter = pair.adapter()
    assert finish(adapter.current()).id == "v3"
    change = finish(planned(adapter, Release("v2")))
    assert finish(perform(adapter, change)) is Progress.DONE
    assert pair.present == ("v2", "v2")
    assert pair.finished == (1, 1)
    assert finish(perform(pair.adapter(), change)) is Progress.DONE
    assert pair.finished == (1, 1)


def test_hosts_that_differ_have_no_release(pair: Pair) -> None:
    (pair.path / "two" / "present").write_text("v1\n")
    for question in (pair.adapter().current(), pair.adapter().plan(Release("v2"))):
        with pytest.raises(AdapterError) as differ:
            finish(question)
        assert str(differ.value) == "the hosts differ: 127.0.0.1 has v3, 127.0.0.2 has v1; bring them to one release"
        assert not differ.value.permanent


def test_only_what_all_hosts_have_can_be_gone_back_to(pair: Pair) -> None:
    script(Path(pair.two.programs["releases"]), "echo v3; echo v1")
    assert [release.id for release in finish(pair.adapter().releases())] == ["v3", "v1"]


def test_a_host_that_fails_stops_the_others_and_is_named(pair: Pair) -> None:
    change = finish(planned(pair.adapter(), Release("v2")))
    script(Path(pair.one.programs["apply"]), "echo no room; exit 1")
    with pytest.raises(AdapterError) as failed:
        finish(pair.adapter().apply(change))
    assert "done on none, not on 127.0.0.1, 127.0.0.2" in str(failed.value)
    assert "no room" in failed.value.evidence
    assert pair.present == ("v3", "v3")


def test_a_change_that_is_done_on_one_host_is_not_done(pair: Pair) -> None:
    adapter = pair.adapter()
    change = finish(planned(adapter, Release("v2")))
    apply = Path(pair.two.programs["apply"])
    works = apply.read_text()
    script(apply, "exit 1")
    with pytest.raises(AdapterError) as failed:
        finish(adapter.apply(change))
    assert "done on 127.0.0.1, not on 127.0.0.2: the hosts differ now" in str(failed.value)
    assert finish(adapter.progress(change)) is Progress.NOT_STARTED
    apply.write_text(works)
    assert finish(perform(pair.adapter(), change)) is Progress.DONE
    assert pair.finished == (1, 1), "the first is not done again"


def test_with_one_host_down_nothing_is_touched(pair: Pair) -> None:
    change = finish(planned(pair.adapter(), Release("v2")))
    adapter = pair.adapter(HERE, NOWHERE)
    for question in (adapter.current(), adapter.progress(change)):
        with pytest.raises(AdapterError, match=f"{NOWHERE} cannot be reached"):
            finish(question)
    (problem,) = finish(adapter.ready())
    assert problem.text.startswith(f"{NOWHERE} cannot be reached")
    assert pair.present == ("v3", "v3")


def test_skipping_a_host_that_is_down_is_never_done(pair: Pair) -> None:
    adapter = pair.adapter(NOWHERE, HERE, THERE, unreachable="skip")
    assert finish(adapter.ready()) == []
    change = finish(planned(adapter, Release("v2")))
    assert finish(adapter.progress(change)) is Progress.NOT_STARTED
    with pytest.raises(AdapterError) as partial:
        finish(adapter.apply(change))
    assert partial.value.permanent
    assert "done on 127.0.0.1, 127.0.0.2, not on 127.0.0.3: the hosts differ now" in str(partial.value)
    assert pair.present == ("v2", "v2")
    with pytest.raises(AdapterError):
        finish(adapter.progress(change))


def test_between_hosts_the_first_must_get_well(pair: Pair) -> None:
    sick = script(pair.path / "look", f'echo "looked at $1" >> {pair.path}/looks', "exit 1")
    adapter = pair.adapter(between=[sick, "{host}"], between_within="1s")
    change = finish(planned(adapter, Release("v2")))
    with pytest.raises(AdapterError) as stopped:
        finish(adapter.apply(change))
    assert "127.0.0.1 does not get well" in str(stopped.value)
    assert "done on 127.0.0.1, not on 127.0.0.2" in str(stopped.value)
    assert pair.present == ("v2", "v3")
    looks = (pair.path / "looks").read_text().splitlines()
    assert set(looks) == {"looked at 127.0.0.1"}
    assert len(looks) >= 2

    script(pair.path / "look", "exit 0")
    assert finish(perform(adapter, change)) is Progress.DONE
    assert pair.finished == (1, 1)


def test_hosts_in_parallel_are_done_at_once(pair: Pair) -> None:
    """Each waits until the other has begun."""
    for world, mine, other in ((pair.one, "1", "2"), (pair.two, "2", "1")):
        path = Path(world.programs["apply"])
        lines = path.read_text().splitlines()[2:]
        meet = f"touch {pair.path}/met{mine}; for i in $(seq 100); do test -e {pair.path}/met{other} && break; sleep 0.1; done"
        script(path, meet, f"test -e {pair.path}/met{other}", *lines)
    change = finish(planned(pair.adapter(), Release("v2")))
    assert finish(perform(pair.adapter(parallel=2), change)) is Progress.DONE
    assert pair.present == ("v2", "v2")
