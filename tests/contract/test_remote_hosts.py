"""The same layer on several hosts is one layer: what a part of them does is never taken for all."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from rollbackd.adapter import AdapterError, MixedError
from rollbackd.model import Change, Progress, Release
from rollbackd.testing import finish, killed_at, perform, place, planned
from rollbackd_adapters.remote import RemoteAdapter, RemoteSettings
from tests.contract.over import served
from tests.contract.worlds import CommandWorld, script
from tests.direct import Direct, direct

HERE, THERE, NOWHERE = "deploy@web1", "deploy@web2", "deploy@web3"


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Direct]:
    with direct(tmp_path_factory.mktemp("hosts")) as running:
        yield running


class Pair:
    """The same layer on web1 and on web2; web3 is down."""

    def __init__(self, path: Path, hosts: Direct) -> None:
        self.path = path
        self.one, self.two = CommandWorld(path / "one"), CommandWorld(path / "two")
        hosts.serve("web1", path / "far-one", {"layer": served(self.one)})
        hosts.serve("web2", path / "far-two", {"layer": served(self.two)})

    def adapter(self, *hosts: str, **settings: Any) -> RemoteAdapter:
        given = {"adapter": "remote", "hosts": list(hosts or (HERE, THERE)), "timeout": "20s", **settings}
        return RemoteAdapter(RemoteSettings.model_validate(given), place(self.path / "near"))

    def moves(self, host: str, release: str) -> None:
        """Somebody takes host `one` or `two` there."""
        (self.path / host / "present").write_text(f"{release}\n")

    @property
    def present(self) -> tuple[str, str]:
        return self.one.present(), self.two.present()

    @property
    def finished(self) -> tuple[int, int]:
        return self.one.finished(), self.two.finished()


@pytest.fixture
def pair(tmp_path: Path, hosts: Direct) -> Pair:
    return Pair(tmp_path, hosts)


def test_all_hosts_go_to_one_release(pair: Pair) -> None:
    adapter = pair.adapter()
    assert finish(adapter.current()).id == "v3"
    change = finish(planned(adapter, Release("v2")))
    assert finish(perform(adapter, change)) is Progress.DONE
    assert pair.present == ("v2", "v2")
    assert pair.finished == (1, 1)
    assert finish(perform(pair.adapter(), change)) is Progress.DONE
    assert pair.finished == (1, 1)


def mixture(pair: Pair) -> Release:
    """What is told of hosts that differ."""
    with pytest.raises(MixedError) as differ:
        finish(pair.adapter().current())
    assert not differ.value.permanent
    assert str(differ.value).startswith("the hosts differ: ")
    assert "`rollbackd rollback contract --to layer=RELEASE`" in str(differ.value)
    return differ.value.mixture


def test_hosts_that_differ_have_no_release_and_one_order_brings_them_together(pair: Pair) -> None:
    pair.moves("two", "v1")
    found = mixture(pair)
    assert found.label == "web1 v3, web2 v1"
    assert found.parts == (("web1", "v3"), ("web2", "v1"))
    adapter = pair.adapter()
    change = finish(planned(adapter, Release("v2")))
    assert (change.before, change.after) == (found, Release("v2"))
    assert finish(adapter.progress(change)) is Progress.NOT_STARTED
    assert finish(perform(adapter, change)) is Progress.DONE
    assert pair.present == ("v2", "v2")
    assert finish(pair.adapter().current()) == Release("v2")
    assert finish(perform(pair.adapter(), change)) is Progress.DONE
    assert pair.finished == (1, 1)


@pytest.mark.parametrize(
    ("places", "descending"), [(range(7, 13), False), ((8, 11), True)], ids=["alone", "with all it started"]
)
def test_killed_on_the_way_from_a_mixture_the_next_life_ends_it(
    tmp_path: Path, hosts: Direct, places: Sequence[int], descending: bool
) -> None:
    """At each boundary of the two orders: the first six are of the question how far it is."""
    for n in places:
        pair = Pair(tmp_path / str(n), hosts)
        pair.moves("two", "v1")
        change = finish(planned(pair.adapter(), Release("v2")))
        assert killed_at(n, lambda p=pair, c=change: perform(p.adapter(), c), descending=descending)  # type: ignore[misc]
        assert finish(perform(pair.adapter(), change)) is Progress.DONE, f"killed at boundary {n}"
        assert pair.present == ("v2", "v2"), f"killed at boundary {n}"
        assert pair.finished == (1, 1), f"killed at boundary {n}"
        assert finish(pair.adapter().current()) == Release("v2"), f"killed at boundary {n}"


def test_a_host_that_is_at_the_target_already_is_left_alone(pair: Pair) -> None:
    pair.moves("one", "v2")
    change = finish(planned(pair.adapter(), Release("v2")))
    assert finish(perform(pair.adapter(), change)) is Progress.DONE
    assert pair.present == ("v2", "v2")
    assert pair.finished == (0, 1)
    pair.moves("one", "v3")
    assert finish(pair.adapter().progress(change)) is Progress.SUPERSEDED, "somebody took it away again"


@pytest.mark.parametrize("host", ["one", "two"])
def test_a_host_that_somebody_moves_before_it_is_its_turn_is_theirs(pair: Pair, host: str) -> None:
    pair.moves("two", "v1")
    change = finish(planned(pair.adapter(), Release("v2")))
    pair.moves(host, "v4")
    assert finish(pair.adapter().progress(change)) is Progress.SUPERSEDED
    with pytest.raises(AdapterError, match="somebody else moved it"):
        finish(pair.adapter().apply(change))
    assert "v4" in pair.present


def test_a_host_that_did_not_get_through_counts_as_missing_until_it_did(pair: Pair) -> None:
    """It has the target's content, and what belongs to it, such as a build, has failed."""
    apply = Path(pair.two.programs["apply"])
    works = apply.read_text()
    script(apply, f"echo v2 > {pair.path}/two/present; echo no build >&2; exit 1")
    change = finish(planned(pair.adapter(), Release("v2")))
    with pytest.raises(AdapterError) as failed:
        finish(pair.adapter().apply(change))
    assert "`rollbackd rollback contract --to layer=v2`" in str(failed.value)
    assert mixture(pair).label == "web1 v2, web2 v2 unfinished"

    again = finish(planned(pair.adapter(), Release("v2"), key="contract-2/0/layer"))
    with pytest.raises(AdapterError, match="done on web1, not on web2"):
        finish(pair.adapter().apply(again))
    assert finish(pair.adapter().progress(again)) is Progress.NOT_STARTED
    apply.write_text(works)
    assert finish(perform(pair.adapter(), again)) is Progress.DONE
    assert pair.finished == (1, 1)
    assert finish(pair.adapter().current()) == Release("v2")


def test_a_host_that_got_through_after_we_gave_up_is_not_missing(pair: Pair) -> None:
    change = finish(planned(pair.adapter(), Release("v2")))
    note = pair.path / "near" / "scratch" / "unfinished" / "web2.json"
    note.parent.mkdir()
    note.write_bytes(TypeAdapter(Change).dump_json(change))
    assert finish(pair.adapter().current()) == Release("v3"), "it went nowhere, or is back again"
    finish(pair.adapter().apply(change))
    assert not note.exists()
    note.write_bytes(TypeAdapter(Change).dump_json(change))
    assert finish(pair.adapter().current()) == Release("v2")
    assert not note.exists(), "it is not asked about once more"
    note.write_text("{")
    with pytest.raises(AdapterError, match="look whether that host is well, then remove it"):
        finish(pair.adapter().current())


def test_only_what_all_hosts_have_can_be_gone_back_to(pair: Pair) -> None:
    script(Path(pair.two.programs["releases"]), "echo v3; echo v1")
    assert [release.id for release in finish(pair.adapter().releases())] == ["v3", "v1"]


def test_a_host_that_fails_stops_the_others_and_is_named(pair: Pair) -> None:
    change = finish(planned(pair.adapter(), Release("v2")))
    script(Path(pair.one.programs["apply"]), "echo no room; exit 1")
    with pytest.raises(AdapterError) as failed:
        finish(pair.adapter().apply(change))
    assert "done on none, not on web1, web2" in str(failed.value)
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
    assert str(failed.value).endswith(
        "done on web1, not on web2: the hosts differ now; `rollbackd rollback contract --to layer=v2`, once "
        "all of them answer, takes the rest there"
    )
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
    assert "done on web1, web2, not on web3: the hosts differ now" in str(partial.value)
    assert pair.present == ("v2", "v2")
    with pytest.raises(AdapterError):
        finish(adapter.progress(change))


def test_a_host_that_was_down_when_a_mixture_was_planned_is_sent_nothing(pair: Pair) -> None:
    pair.moves("one", "v1")
    adapter = pair.adapter(NOWHERE, HERE, THERE, unreachable="skip")
    change = finish(planned(adapter, Release("v2")))
    assert [host for host, _ in change.before.parts] == ["web1", "web2"]
    with pytest.raises(AdapterError) as partial:
        finish(adapter.apply(change))
    assert f"{NOWHERE} did not answer when this was planned" in str(partial.value)
    assert partial.value.permanent
    assert pair.present == ("v2", "v2")


def test_between_hosts_the_first_must_get_well(pair: Pair) -> None:
    sick = script(pair.path / "look", f'echo "looked at $1" >> {pair.path}/looks', "exit 1")
    adapter = pair.adapter(between=[sick, "{host}"], between_within="1s")
    change = finish(planned(adapter, Release("v2")))
    with pytest.raises(AdapterError) as stopped:
        finish(adapter.apply(change))
    assert "web1 does not get well" in str(stopped.value)
    assert "done on web1, not on web2" in str(stopped.value)
    assert pair.present == ("v2", "v3")
    looks = (pair.path / "looks").read_text().splitlines()
    assert set(looks) == {"looked at web1"}
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
