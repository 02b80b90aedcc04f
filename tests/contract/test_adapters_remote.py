"""Layers on another host keep the contract, through a real sshd on loopback; and what only they must do."""

import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rollbackd.adapter import AdapterError, PointInTime, Snapshots
from rollbackd.model import NO_RELEASE, Change, Progress, Release
from rollbackd.testing import (
    KEY,
    AdapterContract,
    BracketContract,
    BracketWorld,
    World,
    finish,
    killed_at,
    perform,
    place,
    planned,
    starts,
)
from rollbackd_adapters.freeze import FreezeAdapter, FreezeSettings
from rollbackd_adapters.remote import RemoteAdapter, RemoteSettings
from rollbackd_adapters.remote.keeping import RemoteCopies
from tests.contract.over import HERE, NOWHERE, THERE, Over, RemoteBracketWorld, RemoteWorld
from tests.contract.test_adapters_releases import ReleasesWorld
from tests.contract.test_adapters_sqlite import SqliteWorld, layer
from tests.contract.worlds import CommandWorld, GitCheckoutWorld, MaintenanceWorld, RestartWorld, script
from tests.sshd import Sshd, sshd

pytestmark = pytest.mark.needs("sshd", "ssh", "ssh-keygen")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


class OnTheServer:
    """Its tests get the module's server."""

    server: Sshd

    @pytest.fixture(autouse=True)
    def _with_server(self, server: Sshd) -> None:
        self.server = server


class TestCommandOverThere(OnTheServer, AdapterContract):
    def make_world(self, path: Path) -> World:
        return RemoteWorld(path, self.server, CommandWorld(path / "world"), ["releases", "step"])

    @pytest.mark.parametrize("descending", [False, True], ids=["alone", "with all it started"])
    def test_killed_at_each_boundary_it_ends_right_in_the_next_life(self, tmp_path: Path, descending: bool) -> None:
        """Those of the conversation about `apply`: the fourth to the sixth; in the others nothing is in hand."""
        for n in (4, 5, 6):
            world = self.make_world(tmp_path / str(n))
            change = finish(planned(world.adapter(), world.target()))
            assert killed_at(n, lambda w=world, c=change: perform(w.adapter(), c), descending=descending)  # type: ignore[misc]
            if n == 5 and not descending:
                with starts() as started:
                    assert finish(world.adapter().progress(change)) is Progress.RUNNING, "the order may be on its way"
                assert started == []
            assert finish(perform(world.adapter(), change)) is Progress.DONE, f"killed at boundary {n}"
            assert world.present() == change.after.id, f"killed at boundary {n}"
            assert world.finished() == 1, f"killed at boundary {n}"


class TestBracketOverThere(OnTheServer, BracketContract):
    def make_world(self, path: Path) -> BracketWorld:
        return RemoteBracketWorld(path, self.server, MaintenanceWorld(path / "world"), ["bracket"])

    @pytest.mark.parametrize("descending", [False, True], ids=["alone", "with all it started"])
    def test_killed_at_each_boundary_the_next_life_gets_in_and_out(self, tmp_path: Path, descending: bool) -> None:
        """Those at which a conversation about `enter`, or one about `leave`, is under way."""
        for n in (2, 5):
            world = self.make_world(tmp_path / str(n))

            async def life(world: BracketWorld = world) -> None:
                await world.adapter().enter(KEY)
                await world.adapter().leave(KEY)

            assert killed_at(n, life, descending=descending)
            finish(world.adapter().enter(KEY))
            assert world.inside()
            finish(world.adapter().leave(KEY))
            assert not world.inside()


def test_a_layer_without_releases_is_restarted_once(tmp_path: Path, server: Sshd) -> None:
    world = RemoteWorld(tmp_path, server, RestartWorld(tmp_path / "world"), ["step"])
    change = finish(planned(world.adapter(), NO_RELEASE))
    assert (change.before, change.after) == (NO_RELEASE, NO_RELEASE)
    assert finish(perform(world.adapter(), change)) is Progress.DONE
    assert finish(perform(world.adapter(), change)) is Progress.DONE
    assert world.finished() == 1


@pytest.mark.needs("git")
def test_a_repository_over_there_goes_back_with_its_risks_and_its_build(tmp_path: Path, server: Sshd) -> None:
    world = RemoteWorld(tmp_path, server, GitCheckoutWorld(tmp_path / "world"), ["releases", "step"])
    (world.inner.repo / "app").write_text("uncommitted\n")
    change = finish(planned(world.adapter(), world.target()))
    assert change.layer == "layer"
    assert any("uncommitted" in risk for risk in change.risks)
    assert any(release.good and release.label for release in finish(world.adapter().releases()))
    assert finish(perform(world.adapter(), change)) is Progress.DONE
    assert world.present() == change.after.id
    assert world.finished() == 1


def test_old_releases_over_there_are_dropped_but_none_that_is_needed_here(tmp_path: Path, server: Sshd) -> None:
    inner = ReleasesWorld(tmp_path / "world", then=False, keep=1)
    adapter = RemoteWorld(tmp_path, server, inner, ["releases", "step"]).adapter()
    v1 = next(release for release in finish(adapter.releases()) if release.label == "v1")
    assert finish(adapter.prune({v1.id})) == ["127.0.0.1: v2"]
    assert inner.names() == ["v3", "v1"]
    commands = RemoteWorld(tmp_path / "other", server, CommandWorld(tmp_path / "commands"), ["releases", "step"])
    assert finish(commands.adapter().prune()) == []


# -- who is asked, and who asks -----------------------------------------------------------------
@pytest.fixture
def world(tmp_path: Path, server: Sshd) -> RemoteWorld:
    return RemoteWorld(tmp_path, server, CommandWorld(tmp_path / "world"), ["releases", "step"])


def reaching(world: Over, **settings: Any) -> RemoteAdapter:
    """The same with other settings; None takes one away."""
    given = {**world._reach, "ssh": HERE, "timeout": "20s", **settings}
    given = {name: value for name, value in given.items() if value is not None}
    return RemoteAdapter(RemoteSettings.model_validate(given), place(world._near))


def failure(world: Over, **settings: Any) -> AdapterError:
    with pytest.raises(AdapterError) as failed:
        finish(reaching(world, **settings).current())
    return failed.value


def test_a_host_whose_key_is_not_known_is_refused(world: RemoteWorld, tmp_path: Path) -> None:
    (tmp_path / "none").touch()
    refused = failure(world, known_hosts=str(tmp_path / "none"))
    assert refused.permanent
    assert str(refused) == (f"{HERE}: its host key is not known; compare it, then put it into {tmp_path / 'none'}")
    assert (tmp_path / "none").read_text() == "", "nothing is ever learnt by itself"


def test_a_host_with_another_key_is_refused(world: RemoteWorld, server: Sshd, tmp_path: Path) -> None:
    mine = (world._far / "id_ed25519.pub").read_text().split()
    (tmp_path / "wrong").write_text(f"[127.0.0.1]:{server.port} {mine[0]} {mine[1]}\n")
    refused = failure(world, known_hosts=str(tmp_path / "wrong"))
    assert refused.permanent
    assert "its host key is not the one that is known" in str(refused)
    problems = finish(reaching(world, known_hosts=str(tmp_path / "wrong")).ready())
    assert "host key" in problems[0].text


def test_a_file_of_ssh_cannot_make_it_trust(world: RemoteWorld, tmp_path: Path) -> None:
    (tmp_path / "none").touch()
    (tmp_path / "config").write_text("Host *\n  StrictHostKeyChecking no\n")
    assert failure(world, known_hosts=str(tmp_path / "none"), ssh_config=str(tmp_path / "config")).permanent


def test_a_key_that_is_not_let_in_is_told(world: RemoteWorld, server: Sshd, tmp_path: Path) -> None:
    refused = failure(world, ssh=THERE)
    assert refused.permanent
    assert "add our public key to authorized_keys there" in str(refused)


def test_a_host_that_is_down_is_told_and_asked_again(world: RemoteWorld) -> None:
    refused = failure(world, ssh=NOWHERE)
    assert not refused.permanent
    assert str(refused).startswith(f"{NOWHERE} cannot be reached: ")
    assert "onnection refused" in str(refused)


def test_whoever_has_the_key_gets_nothing_but_the_layers(world: RemoteWorld, server: Sshd) -> None:
    import subprocess

    argv = reaching(world)._hosts[0]._argv
    argv[-1] = "cat /etc/passwd"
    done = subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    assert done.stdout.startswith(b'{"hello"')
    assert done.stdout.count(b"\n") == 1
    assert b"root:" not in done.stdout


def test_a_layer_that_is_not_served_is_told_with_those_that_are(world: RemoteWorld) -> None:
    refused = failure(world, layer="code")
    assert refused.permanent
    assert str(refused) == f'{HERE} does not serve a layer "code"; it serves: layer'


def test_a_broken_file_over_there_is_told_with_its_place(world: RemoteWorld, server: Sshd) -> None:
    (world._far / "layers.yaml").write_text("scratch: /tmp\nlayers:\n  layer: {adapter: gti}\n")
    refused = failure(world)
    assert f"{world._far}/layers.yaml:3:11: unknown adapter" in str(refused)


class _Frozen:
    """A freeze over there, that somebody else holds."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.file = path / "FROZEN"
        self.file.write_text("frozen by Ann until Monday\n")
        self._place = place(path)

    def adapter(self) -> FreezeAdapter:
        return FreezeAdapter(FreezeSettings.model_validate({"adapter": "freeze", "file": self.file}), self._place)


def test_what_a_bracket_over_there_says_of_its_crossing_is_heard_here(tmp_path: Path, server: Sshd) -> None:
    frozen = RemoteBracketWorld(tmp_path, server, _Frozen(tmp_path / "world"), ["bracket"]).adapter()
    finish(frozen.enter(KEY))
    assert "frozen by somebody else" in finish(frozen.note(KEY))
    page = RemoteBracketWorld(tmp_path / "page", server, MaintenanceWorld(tmp_path / "other"), ["bracket"]).adapter()
    with pytest.raises(AdapterError, match='unknown method "note"'):
        finish(page.note(KEY))


def test_traits_that_do_not_fit_are_a_problem(world: RemoteWorld) -> None:
    assert finish(reaching(world).ready()) == []
    (problem,) = finish(reaching(world, traits=["bracket"]).ready())
    assert problem.text == "127.0.0.1: it cannot be used like that; write traits: [releases, step]"
    (problem,) = finish(reaching(world, traits=["releases", "step", "data"]).ready())
    assert "traits: [releases, step]" in problem.text


def test_what_is_missing_on_this_host_is_a_problem(world: RemoteWorld, tmp_path: Path) -> None:
    (problem,) = finish(reaching(world, identity=str(tmp_path / "lost")).ready())
    assert problem.text == f"identity: {tmp_path / 'lost'}: no such file or directory; let the daemon's user read it"


def test_only_a_layer_that_says_so_has_snapshots(world: RemoteWorld) -> None:
    assert not isinstance(reaching(world), Snapshots)
    keeping = reaching(world, traits=["releases", "step", "snapshots"])
    assert isinstance(keeping, Snapshots)
    with pytest.raises(AdapterError, match='unknown method "take"') as refused:
        finish(keeping.take())
    assert refused.value.permanent
    with pytest.raises(AdapterError, match="do it there") as refused:
        finish(keeping.export_to("a", "/b"))
    assert refused.value.permanent


class StoredWorld(SqliteWorld):
    """Its copies are not where a layer's own state is, which is elsewhere for the far side."""

    def adapter(self) -> Any:
        return layer(self.path, lock_within="500ms", timeout="20s", store=str(self.path / "copies"))


def test_data_over_there_is_copied_and_goes_back_to_a_time(tmp_path: Path, server: Sshd) -> None:
    (tmp_path / "world").mkdir()
    traits = ["releases", "step", "data", "snapshots"]
    world = RemoteWorld(tmp_path, server, StoredWorld(tmp_path / "world"), traits)
    adapter = world.adapter()
    assert isinstance(adapter, RemoteCopies)
    assert isinstance(adapter, PointInTime)
    second = finish(adapter.take("second"))
    assert list(finish(adapter.ready())) == [], "what it offers is what `traits` says"
    finish(adapter.mark(second.created, "change"))
    release = finish(adapter.as_of(second.created))
    assert (release.label, release.created) == ("second", second.created)
    with pytest.raises(AdapterError, match="no copy is as old as 2020") as refused:
        finish(adapter.as_of(datetime(2020, 1, 1, tzinfo=UTC)))
    assert refused.value.permanent
    change = finish(planned(adapter, release))
    assert change.loss is not None
    assert finish(perform(adapter, change)) is Progress.DONE
    assert world.present() == release.id


# -- a far side that is not what it should be ---------------------------------------------------
def pretending(path: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> RemoteAdapter:
    """A `ssh` that prints lines of sh in place of the real one."""
    script(path / "bin" / "ssh", *lines)
    monkeypatch.setenv("PATH", f"{path / 'bin'}:/usr/bin:/bin")
    return RemoteAdapter(
        RemoteSettings.model_validate({"adapter": "remote", "ssh": HERE, "timeout": "2s"}), place(path)
    )


HELLO = (
    '{"hello":{"protocol":1,"version":"0.1.0","layers":{"layer":{"adapter":"git","resource":"git:/x",'
    '"traits":{"releases":true,"step":true,"bracket":false,"data":false}}}}}'
)


def said(line: str) -> str:
    return f"printf '%s\\n' {shlex.quote(line)}"


@pytest.mark.parametrize(
    ("lines", "permanent", "words"),
    [
        pytest.param(
            [said(HELLO.replace('protocol":1', 'protocol":2'))], True, "speaks protocol 2 and not 1", id="new"
        ),
        pytest.param(["echo bash: rollbackd: command not found >&2; exit 127"], True, "no rollbackd there", id="none"),
        pytest.param(
            ["echo Usage: rollbackd >&2; exit 2"],
            False,
            "did not answer there (exit 2): Usage: rollbackd; `roll",
            id="old",
        ),
        pytest.param(["exit 0"], False, "did not answer there (exit 0): it does not say why; `", id="silent"),
        pytest.param(["exit 126"], True, "cannot be run", id="not executable"),
        pytest.param(["sleep 60"], False, "not a word within 2s; that host hangs, or", id="hangs"),
        pytest.param([said(HELLO), "sleep 60"], False, "no answer within 2s while it was asked to current", id="stuck"),
        pytest.param(
            [said(HELLO), "head -c 17000000 /dev/zero | tr '\\0' y"], False, "MiB came while it was asked", id="endless"
        ),
        pytest.param([said(HELLO)], False, "the connection was lost (exit 0) while it was asked to current", id="cut"),
        pytest.param([said(HELLO), 'printf \'{"id":1,"resu\''], False, "the connection was lost", id="half a line"),
        pytest.param([said(HELLO), "echo hm"], False, 'this is not JSON: "hm"; have rollbackd', id="garbage"),
        pytest.param([said(HELLO), 'echo \'{"id":1,"result":7}\''], False, "not understood", id="another type"),
        pytest.param(
            [said(HELLO), said('{"id":1,"result":{"id":"-rf /"}}')], True, "not an acceptable id", id="hostile"
        ),
        pytest.param(
            [said(HELLO), said('{"id":1,"error":{"message":"no \\u001b[2Jroom","permanent":true}}')],
            True,
            f"{HERE}: no room",
            id="an error in colour",
        ),
    ],
)
def test_a_strange_answer_is_never_taken_for_a_right_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], permanent: bool, words: str
) -> None:
    with pytest.raises(AdapterError) as refused:
        finish(pretending(tmp_path, monkeypatch, *lines).current())
    assert words in str(refused.value)
    assert refused.value.permanent is permanent


def test_a_logins_greeting_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "echo Welcome",
        "printf 'no mail today. '",
        said(HELLO),
        said('{"id":1,"result":{"id":"v1","label":"one\\nline"}}'),
    ]
    release = finish(pretending(tmp_path, monkeypatch, *lines).current())
    assert (release.id, release.label) == ("v1", "one line")


def test_a_lost_apply_is_never_a_success_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection about `apply` is cut off, and then the far side says that nothing was begun."""
    lines = [
        "request=$(cat)",
        said(HELLO),
        "case $request in *'\"apply\"'*) exit 255;; esac",
        said('{"id":1,"result":"not_started"}'),
    ]
    adapter = pretending(tmp_path, monkeypatch, *lines)
    with pytest.raises(AdapterError, match="the connection was lost") as lost:
        finish(adapter.apply(Change("layer", Release("v2"), Release("v1"), key=KEY)))
    assert not lost.value.permanent


# -- settings -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "nothing says where this layer is"),
        ({"ssh": HERE, "hosts": [THERE]}, "nothing says where this layer is"),
        ({"hosts": [HERE, HERE]}, "named twice"),
        ({"ssh": "-oProxyCommand=sh"}, "nothing to log in at"),
        ({"ssh": "a@-oProxyCommand=sh"}, "nothing to log in at"),
        ({"ssh": "a b"}, "nothing to log in at"),
        ({"ssh": "web1\n"}, "nothing to log in at"),
        ({"hosts": ["web1", "$(id)"]}, "nothing to log in at"),
        ({"hosts": [HERE, THERE], "traits": ["bracket"]}, "one layer for each host"),
        ({"hosts": [HERE, THERE], "traits": ["step", "snapshots"]}, "one layer for each host"),
        ({"ssh": HERE, "traits": ["releases"]}, "nothing can be done"),
        ({"ssh": HERE, "identity": "id"}, "write the whole path"),
        ({"ssh": HERE, "connect_within": "10ms"}, "at least 1s"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        RemoteSettings.model_validate({"adapter": "remote", **settings})


@pytest.mark.parametrize("destination", ["web1", "deploy@web1.example.com", "deploy@10.0.0.7", "deploy@::1"])
def test_what_ssh_takes_as_a_destination_is_accepted(destination: str) -> None:
    settings = RemoteSettings.model_validate({"adapter": "remote", "ssh": destination})
    assert settings.destinations == (destination,)
