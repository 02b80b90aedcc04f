"""Adapter `freeze`: deployments stand still, whoever froze them first keeps their freeze."""

import json
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rollbackd.adapter import AdapterError, Place
from rollbackd.system import boundary
from rollbackd.testing import KEY, BracketContract, BracketWorld, finish, killed_at, place
from rollbackd_adapters.freeze import FreezeAdapter, FreezeSettings
from tests.contract.worlds import git, new_repository, script
from tests.fakes.gatehouse import TOKEN, AtTheGate, Gatehouse

HEADERS = {"Authorization": {"env": "GATE"}}


def freeze(where: Place, **settings: Any) -> FreezeAdapter:
    known = FreezeSettings.model_validate({"adapter": "freeze", "timeout": "5s", **settings})
    return FreezeAdapter(known, replace(where, reveal=lambda secret: {"GATE": TOKEN}[secret.env]))


def by_http(gate: Gatehouse, **more: Any) -> dict[str, Any]:
    url = f"{gate.url}/freeze?why={{incident}}"
    body = {"by": "rollbackd", "why": "{service} is rolled back by {incident}"}
    return {
        "http": {
            "enter": {"method": "PUT", "url": url, "headers": HEADERS, "body": body},
            "leave": {"method": "DELETE", "url": url, "headers": HEADERS},
            "inside": {"url": f"{gate.url}/freeze", "json": "state.frozen", "headers": HEADERS},
            **more,
        }
    }


class FileWorld(BracketWorld):
    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path / "FROZEN"

    def adapter(self) -> FreezeAdapter:
        return freeze(place(self.path), file=self.file)

    def inside(self) -> bool:
        return self.file.exists()


class RefWorld(BracketWorld):
    def __init__(self, path: Path) -> None:
        self.path = path
        self.origin = path / "origin.git"
        path.mkdir(parents=True, exist_ok=True)
        git(path, "init", "--quiet", "--bare", str(self.origin))

    def adapter(self) -> FreezeAdapter:
        return freeze(place(self.path), git={"remote": str(self.origin)})

    def ref(self) -> str:
        return git(self.origin, "for-each-ref", "--format=%(objectname)", "refs/heads/frozen")

    def inside(self) -> bool:
        return bool(self.ref())


class CallsWorld(BracketWorld):
    def __init__(self, path: Path, gate: Gatehouse, **more: Any) -> None:
        self.path = path
        self.gate = gate
        self._more = more
        gate.frozen = False
        gate.requests.clear()

    def adapter(self) -> FreezeAdapter:
        return freeze(place(self.path), **by_http(self.gate, **self._more))

    def inside(self) -> bool:
        return self.gate.frozen

    def crossings(self) -> int:
        return self.gate.crossings()


class TestFreezeFile(BracketContract):
    def make_world(self, path: Path) -> BracketWorld:
        return FileWorld(path)


@pytest.mark.needs("git")
class TestFreezeRef(BracketContract):
    def make_world(self, path: Path) -> BracketWorld:
        return RefWorld(path)

    @pytest.mark.parametrize("descending", [True], ids=["with all it started"])
    def test_killed_at_each_boundary_the_next_life_gets_in_and_out(self, tmp_path: Path, descending: bool) -> None:
        super().test_killed_at_each_boundary_the_next_life_gets_in_and_out(tmp_path, descending)


class TestFreezeCalls(AtTheGate, BracketContract):
    def make_world(self, path: Path) -> BracketWorld:
        return CallsWorld(path, self.gate)


class TestFreezeCallsThatCannotBeAsked(TestFreezeCalls):
    def make_world(self, path: Path) -> BracketWorld:
        return CallsWorld(path, self.gate, inside=None)


# -- file ---------------------------------------------------------------------------------------
def test_the_file_says_who_why_and_since_when(tmp_path: Path) -> None:
    world = FileWorld(tmp_path)
    finish(world.adapter().enter("shop-7"))
    said = json.loads(world.file.read_text())
    (holder,) = said["holders"]
    assert said["frozen_by"] == "rollbackd"
    assert (holder["incident"], holder["service"]) == ("shop-7", "contract")
    assert "do not deploy until this file is gone" in holder["why"]
    assert holder["since"].endswith("+00:00")
    assert world.file.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".half")] == []


@pytest.mark.parametrize(
    "theirs", ["", "frozen by Ann until Monday\n", '{"frozen_by": "ci"}', "[1]", "\xff", "[" * 10_000]
)
def test_somebody_elses_file_is_kept_and_leaving_does_not_lift_it(tmp_path: Path, theirs: str) -> None:
    world = FileWorld(tmp_path)
    world.file.write_text(theirs)
    assert not finish(world.adapter().inside(KEY)), "not entered yet"
    finish(world.adapter().enter(KEY))
    assert finish(world.adapter().inside(KEY)), "as a guest"
    assert "frozen by somebody else" in finish(world.adapter().note(KEY))
    assert not finish(world.adapter().inside("other-1"))
    finish(world.adapter().leave(KEY))
    assert world.file.read_text() == theirs
    assert not finish(world.adapter().inside(KEY)), "left, although it stands"


def test_a_guest_whose_host_lifts_freezes_when_it_enters_again(tmp_path: Path) -> None:
    world = FileWorld(tmp_path)
    world.file.write_text("Ann's\n")
    finish(world.adapter().enter(KEY))
    world.file.unlink()
    assert not finish(world.adapter().inside(KEY))
    finish(world.adapter().enter(KEY))
    assert "rollbackd" in world.file.read_text()
    finish(world.adapter().leave(KEY))
    assert not world.file.exists()


def test_what_somebody_wrote_over_ours_meanwhile_is_theirs(tmp_path: Path) -> None:
    world = FileWorld(tmp_path)
    finish(world.adapter().enter(KEY))
    world.file.write_text("Ann's\n")
    finish(world.adapter().leave(KEY))
    assert world.file.read_text() == "Ann's\n"


def test_services_that_share_a_file_keep_it_until_the_last_has_left(tmp_path: Path) -> None:
    file = tmp_path / "FROZEN"
    shop = freeze(place(tmp_path / "shop", service="shop"), file=file)
    till = freeze(place(tmp_path / "till", service="till"), file=file)
    assert shop.resource != till.resource, "no mistake of the configuration"
    assert shop.needs.writes == (tmp_path,)
    finish(shop.enter("shop-1"))
    finish(till.enter("till-1"))
    finish(shop.leave("shop-1"))
    assert file.exists()
    assert not finish(shop.inside("shop-1"))
    assert finish(till.inside("till-1"))
    finish(till.leave("till-1"))
    assert not file.exists()


def test_ready_says_what_would_stop_a_file(tmp_path: Path) -> None:
    def problem(file: Path) -> str:
        return finish(freeze(place(tmp_path), file=file).ready())[0].text

    assert problem(tmp_path / "nowhere" / "FROZEN").endswith("no such directory; make it")
    (tmp_path / "dir").mkdir()
    assert "is a directory" in problem(tmp_path / "dir")
    with pytest.raises(AdapterError, match="is a directory") as failed:
        finish(freeze(place(tmp_path), file=tmp_path / "dir").enter(KEY))
    assert not failed.value.permanent
    assert finish(FileWorld(tmp_path).adapter().ready()) == []


# -- git ----------------------------------------------------------------------------------------
@pytest.mark.needs("git")
def test_the_ref_says_who_froze(tmp_path: Path) -> None:
    world = RefWorld(tmp_path)
    finish(world.adapter().enter("shop-7"))
    message = git(world.origin, "log", "-1", "--format=%an%n%B", "frozen")
    assert message.startswith("rollbackd\nFrozen by rollbackd\n\ncontract is being rolled back; do not deploy.")
    assert message.endswith("Incident: shop-7")


@pytest.mark.needs("git")
@pytest.mark.parametrize("left", ["config.lock", "HEAD.lock"])
def test_what_a_git_that_was_killed_has_left_keeps_nobody_from_freezing(tmp_path: Path, left: str) -> None:
    world = RefWorld(tmp_path)
    finish(world.adapter().ready())  # makes the directory, as every look does
    (own,) = tmp_path.rglob("freeze.git")
    (own / left).touch()
    finish(world.adapter().enter(KEY))
    assert world.inside()


@pytest.mark.needs("git")
def test_somebody_elses_ref_is_kept_before_and_after(tmp_path: Path) -> None:
    world = RefWorld(tmp_path)
    work = new_repository(tmp_path / "work")
    theirs = git(work, "rev-parse", "v1")
    git(work, "push", "--quiet", str(world.origin), "v1^{commit}:refs/heads/frozen")
    finish(world.adapter().enter(KEY))
    assert finish(world.adapter().inside(KEY))
    finish(world.adapter().leave(KEY))
    assert world.ref() == theirs
    git(work, "push", "--quiet", str(world.origin), ":refs/heads/frozen")
    finish(world.adapter().enter("other-1"))
    git(work, "push", "--quiet", "--force", str(world.origin), "v1^{commit}:refs/heads/frozen")
    assert not finish(world.adapter().inside("other-1"))
    finish(world.adapter().leave("other-1"))
    assert world.ref() == theirs, "replaced meanwhile: theirs"


@pytest.mark.needs("git")
@pytest.mark.parametrize("way", ["enter", "leave"])
def test_a_ref_that_somebody_makes_at_any_moment_is_never_overwritten_or_deleted(tmp_path: Path, way: str) -> None:
    work = new_repository(tmp_path / "work")
    theirs = git(work, "rev-parse", "v1")
    for n in range(1, 10):
        world = RefWorld(tmp_path / str(n))
        git(work, "push", "--quiet", str(world.origin), "v1^{commit}:refs/heads/main")
        if way == "leave":
            finish(world.adapter().enter(KEY))
        started = count(1)

        def hook(name: str, world: RefWorld = world, started: Any = started, n: int = n) -> None:
            if name == "process.before" and next(started) == n:
                git(world.origin, "update-ref", "refs/heads/frozen", theirs)

        boundary.hook = hook
        finish(getattr(world.adapter(), way)(KEY))
        boundary.hook = lambda _name: None
        if next(started) <= n:
            break
        assert world.ref() == theirs, f"made before start {n}"
    assert n > 2


@pytest.mark.needs("git")
def test_a_remote_that_refuses_or_is_away_is_told(tmp_path: Path) -> None:
    world = RefWorld(tmp_path)
    script(world.origin / "hooks" / "pre-receive", "echo nobody freezes here >&2", "exit 1")
    with pytest.raises(AdapterError, match=r"refused refs/heads/frozen \(.*declined") as failed:
        finish(world.adapter().enter(KEY))
    assert failed.value.permanent
    assert finish(world.adapter().ready()) == []
    world.origin.rename(tmp_path / "elsewhere")
    assert "is it reachable" in finish(world.adapter().ready())[0].text
    with pytest.raises(AdapterError, match="git ls-remote") as failed:
        finish(world.adapter().inside(KEY))
    assert not failed.value.permanent


# -- HTTP ---------------------------------------------------------------------------------------
def test_requests_carry_the_secret_the_words_and_a_key_of_their_own(tmp_path: Path, gate: Gatehouse) -> None:
    world = CallsWorld(tmp_path, gate)
    finish(world.adapter().enter("shop-7"))
    finish(world.adapter().leave("shop-7"))
    body = {"by": "rollbackd", "why": "contract is rolled back by shop-7"}
    assert [request for request in gate.requests if request[0] != "GET"] == [
        ("PUT", "/freeze?why=shop-7", body, "contract/shop-7/enter"),
        ("DELETE", "/freeze?why=shop-7", None, "contract/shop-7/leave"),
    ]


def test_a_freeze_that_was_there_is_not_lifted(tmp_path: Path, gate: Gatehouse) -> None:
    world = CallsWorld(tmp_path, gate)
    gate.frozen = True
    finish(world.adapter().enter(KEY))
    finish(world.adapter().leave(KEY))
    assert gate.frozen
    assert gate.crossings() == 0


def test_a_call_that_was_done_but_not_answered_is_found_done(tmp_path: Path, gate: Gatehouse) -> None:
    world = CallsWorld(tmp_path, gate)
    gate.drop_after = True
    with pytest.raises(AdapterError, match=r"PUT http://127.0.0.1:\d+/freeze: the answer broke off") as failed:
        finish(world.adapter().enter(KEY))
    assert not failed.value.permanent
    finish(world.adapter().enter(KEY))
    assert gate.crossings() == 1
    finish(world.adapter().leave(KEY))
    assert not gate.frozen, "it is ours: our intent was written before the call"


def test_a_later_crossing_is_no_repetition_of_the_first(tmp_path: Path, gate: Gatehouse) -> None:
    world = CallsWorld(tmp_path, gate)
    for _ in range(2):
        finish(world.adapter().enter("shop-7"))
        finish(world.adapter().leave("shop-7"))
    keys = [key for method, *_, key in gate.requests if method != "GET"]
    assert keys == [f"contract/shop-7/{way}" for way in ("enter", "leave", "enter/2", "leave/2")]


def test_what_may_be_frozen_and_cannot_be_asked_is_lifted_at_once(tmp_path: Path, gate: Gatehouse) -> None:
    world = CallsWorld(tmp_path, gate, inside=None)
    gate.drop_after = True
    with pytest.raises(AdapterError, match=r"the answer broke off: the server closed the connection$"):
        finish(world.adapter().enter(KEY))
    assert not world.inside()
    finish(world.adapter().enter(KEY))
    assert world.inside(), "with a key of its own, so that it is done"
    gate.status = 500
    with pytest.raises(AdapterError, match=r"Deployments may be frozen all the same; .*DELETE .* answered 500"):
        finish(world.adapter().enter("other-1"))


def test_what_is_gone_already_is_lifted(tmp_path: Path, gate: Gatehouse) -> None:
    world = CallsWorld(tmp_path, gate, inside=None)
    finish(world.adapter().enter(KEY))
    gate.status = 404
    finish(world.adapter().leave(KEY))
    assert not finish(world.adapter().inside(KEY))


def test_killed_after_the_call_it_is_still_ours(tmp_path: Path, gate: Gatehouse) -> None:
    for n in range(1, 9):
        world = CallsWorld(tmp_path / str(n), gate)
        killed_at(n, lambda w=world: w.adapter().enter(KEY), descending=False)  # type: ignore[misc]
        finish(world.adapter().enter(KEY))
        finish(world.adapter().leave(KEY))
        assert not gate.frozen


@pytest.mark.parametrize(("status", "permanent"), [(403, True), (302, True), (429, False), (500, False)])
def test_a_refusal_says_whether_trying_again_helps(
    tmp_path: Path, gate: Gatehouse, status: int, permanent: bool
) -> None:
    world = CallsWorld(tmp_path, gate, inside=None)
    gate.status = status
    with pytest.raises(AdapterError, match=f"answered {status}") as failed:
        finish(world.adapter().enter(KEY))
    assert failed.value.permanent is permanent


def test_a_question_is_never_led_to_another_host_with_our_secret(tmp_path: Path, gate: Gatehouse) -> None:
    elsewhere = Gatehouse()
    try:
        gate.status, gate.location = 302, f"{elsewhere.url}/freeze"
        with pytest.raises(AdapterError, match="answered 302; a redirect is not followed"):
            finish(CallsWorld(tmp_path, gate).adapter().inside(KEY))
        assert elsewhere.requests == []
    finally:
        elsewhere.close()


def test_a_status_alone_can_say_whether_it_is_frozen(tmp_path: Path, gate: Gatehouse) -> None:
    world = CallsWorld(tmp_path, gate, inside={"url": f"{gate.url}/there", "headers": HEADERS})
    finish(world.adapter().enter(KEY))
    assert finish(world.adapter().inside(KEY))
    gate.frozen = False
    assert not finish(world.adapter().inside(KEY))
    gate.status = 500
    assert "answered 500" in finish(world.adapter().ready())[0].text


def test_an_answer_of_another_kind_is_no_answer(tmp_path: Path, gate: Gatehouse) -> None:
    asked = {"url": f"{gate.url}/freeze", "json": "state.frozen", "equals": "yes", "headers": HEADERS}
    with pytest.raises(AdapterError, match="not of the kind") as failed:
        finish(CallsWorld(tmp_path, gate, inside=asked).adapter().inside(KEY))
    assert not failed.value.permanent
    with pytest.raises(AdapterError, match='"state" has no "other"'):
        finish(CallsWorld(tmp_path, gate, inside={**asked, "json": "state.other"}).adapter().inside(KEY))


def test_it_is_no_step(tmp_path: Path) -> None:
    layer = FileWorld(tmp_path).adapter()
    assert (layer.traits.step, layer.traits.bracket, layer.traits.releases) == (False, True, False)
    with pytest.raises(AdapterError, match="name it under `within`"):
        finish(layer.current())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "exactly one of `file`, `git` and `http`"),
        ({"file": "/a", "git": {"remote": "/b"}}, "exactly one"),
        ({"file": "FROZEN"}, "write the whole path"),
        ({"git": {"remote": "--upload-pack=x"}}, "should match pattern"),
        ({"git": {"remote": "https://ann:secret@x/y"}}, "use a credential helper"),
        ({"git": {"remote": "/b", "ref": "refs/heads/a..b"}}, "cannot be the name of a ref"),
        ({"http": {"enter": {"url": "http://x/{nonsense}"}, "leave": {"url": "http://x/"}}}, "{nonsense} is not known"),
        ({"http": {"enter": {"url": "http://{service}/"}, "leave": {"url": "http://x/"}}}, "the host is fixed"),
        ({"http": {"enter": {"url": "ftp://x/"}, "leave": {"url": "http://x/"}}}, "not a URL that can be asked"),
        ({"http": {"enter": {"url": "http://a:b@x/"}, "leave": {"url": "http://x/"}}}, "send a header from a secret"),
        (
            {"http": {"enter": {"url": "http://x/", "headers": {"A": "b\r\nC: d"}}, "leave": {"url": "http://x/"}}},
            "header A has a line break",
        ),
    ],
)
def test_settings_that_cannot_work_are_errors_at_start(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as failed:
        FreezeSettings.model_validate({"adapter": "freeze", **settings})
    assert message in str(failed.value)


def test_deployments_go_on_when_it_is_verified_unless_said_otherwise() -> None:
    assert FreezeSettings.model_validate({"adapter": "freeze", "file": "/srv/FROZEN"}).leave == "verified"
