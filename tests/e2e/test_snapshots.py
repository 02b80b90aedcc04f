"""Snapshots in the real daemon, of real files and a real repository: by hand, on the calendar, elsewhere."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.worlds import commit, git, script
from tests.e2e.toy import Ear, Toy, toy
from tests.servers import wait_until

pytestmark = pytest.mark.needs("git")


class Shop:
    """A service with a configuration and a repository, which goes back in its configuration."""

    def __init__(self, one: Toy) -> None:
        self.toy = one
        self.conf = one.root / "conf"
        self.code = one.root / "code.git"
        self.remote = one.root / "remote"

    def build(self) -> None:
        self.conf.mkdir()
        self.remote.mkdir()
        self.write("v1")
        self.code.mkdir()
        git(self.code, "init", "--quiet", "--initial-branch=main")
        commit(self.code, "one", 1, app="1")

    def write(self, version: str) -> None:
        (self.conf / "app.json").write_text(json.dumps({"version": version}))
        (self.conf / ".env").write_text(f"TOKEN=secret-{version}\n")

    def configure(self, schedules: list[dict[str, Any]], auto: bool = True, **changes: Any) -> None:
        layers = {
            "config": {"adapter": "files", "paths": [str(self.conf)], "room": "1B", "auto": auto},
            "code": {"adapter": "git", "repo": str(self.code), "room": "1B"},
        }
        given = {"layers": layers, "plans": {"default": ["config"]}, **changes}
        self.toy.configure(schedules=schedules, **given)

    @property
    def offsite(self) -> dict[str, Any]:
        """A directory of this host, as a remote by commands."""
        there = str(self.remote)
        return {
            "push": ["cp", "-t", there, "{file}"],
            "list": ["ls", there],
            "pull": ["cp", "-t", "{directory}", f"{there}/{{name}}"],
        }

    def kept(self, layer: str = "config") -> dict[str, Any]:
        (found,) = self.toy.ask("GET", f"snapshots?service=shop&layer={layer}")["layers"]
        return dict(found)

    def names(self, layer: str = "config") -> list[str]:
        return [one["name"] for one in self.kept(layer)["snapshots"]]

    def run(self, *arguments: str, code: int = 0) -> str:
        """A command, which must end so; what it said."""
        done = self.toy.command("snapshot", *arguments)
        assert done.returncode == code, f"{done.stdout}{done.stderr}{self.toy.log[-2000:]}"
        return done.stdout + done.stderr

    def lose(self) -> None:
        """All that was kept is gone, at once: a look may be writing there."""
        gone = self.toy.root / "gone"
        (self.toy.root / "layers/shop/config/store").rename(gone)
        shutil.rmtree(gone)

    def damage(self, text: str) -> None:
        """Harm a content in the store, so that nothing but reading it tells."""
        blobs = [path for path in (self.toy.root / "layers/shop/config/store/blobs").rglob("*") if path.is_file()]
        (one,) = [path for path in blobs if text in path.read_text()]
        one.write_text("X" * len(one.read_text()))

    def until(self, condition: Callable[[], Any], what: str) -> None:
        wait_until(lambda: bool(condition()), f"{what}; {self.toy.log[-2000:]}", 40)

    def metrics(self) -> str:
        import urllib.request

        url = f"http://127.0.0.1:{self.toy.port}/metrics"
        with urllib.request.urlopen(urllib.request.Request(url, headers=self.toy.headers), timeout=30) as answer:
            return str(answer.read().decode())


@pytest.fixture
def shop(tmp_path: Path, ear: Ear) -> Iterator[Shop]:
    with toy(tmp_path / "shop", told=ear.url) as one:
        made = Shop(one)
        made.build()
        yield made


def test_by_hand_from_the_first_snapshot_to_another_host_and_back(shop: Shop, tmp_path: Path) -> None:
    shop.configure([])
    shop.toy.start()
    said = shop.run("take", "--all").splitlines()
    assert [line.partition(":")[0] for line in said] == ["shop/config", "shop/code"]
    shop.run("take", "shop", "config", "--name", "checkpoint-7")
    assert "checkpoint-7" in shop.run("list", "shop", "config")
    assert "whole" in shop.run("verify", "shop")
    assert "restored into scratch" in shop.run("verify", "shop", "config", "--name", "checkpoint-7", "--rehearse")

    shop.write("v2")
    shown = shop.run("diff", "shop", "config", "checkpoint-7")
    assert "app.json" in shown
    assert "secret-" not in shown
    restored = json.loads(shop.run("restore", "shop", "config", "checkpoint-7", "--json"))
    assert (shop.conf / "app.json").read_text() == '{"version": "v1"}'
    shop.run("restore", "shop", "config", restored["saved"])
    assert (shop.conf / "app.json").read_text() == '{"version": "v2"}'
    assert [change["kind"] for change in shop.toy.ask("GET", "changes?service=shop")["changes"]] == ["restore"] * 2

    file = tmp_path / "config.tar.gz"
    shop.run("export", "shop", "config", "checkpoint-7", str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    shop.lose()
    assert "checkpoint-7" in shop.run("import", "shop", "config", str(file))
    assert "checkpoint-7" in shop.names()
    file.write_bytes(b"nothing of ours")
    assert "not a snapshot" in shop.run("import", "shop", "config", str(file), code=1)

    assert "no snapshot" in shop.run("restore", "shop", "config", "nothing", code=1)
    assert 'no layer "cod"' in shop.run("take", "shop", "cod", code=1)
    assert "name the layer" in shop.run("restore", "shop", code=2)
    assert "--all" in shop.run("take", code=2)
    assert list((shop.toy.root / "layers/.keeper").iterdir()) == []
    actors = {record["actor"] for record in _facts(shop, "SnapshotRestored")}
    assert len(actors) == 1
    assert actors.pop().startswith("unix:")
    assert "0 dropped" in shop.run("prune", "shop", "config")


def _facts(shop: Shop, kind: str) -> list[dict[str, Any]]:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(f"file:{shop.toy.journal}?mode=ro", uri=True)) as connection:
        rows = connection.execute("SELECT actor, body FROM facts WHERE kind = ? ORDER BY seq", (kind,)).fetchall()
    return [{"actor": actor, **json.loads(body)} for actor, body in rows]


def test_the_newest_whole_one_is_used_and_copies_elsewhere_when_none_is_left(shop: Shop) -> None:
    shop.configure([{"snapshot": "shop/config", "cron": "0 2 1 1 *", "offsite": shop.offsite}], auto=False)
    shop.toy.start()
    for version in ("v1", "v2", "v3"):
        shop.write(version)
        shop.run("take", "shop", "config", "--name", version)
    shop.write("broken")
    shop.damage('"v3"')
    assert "passed over: snapshot v3" in shop.run("restore", "shop", "config")
    assert '"v2"' in (shop.conf / "app.json").read_text()

    shop.lose()
    (shop.conf / "app.json").write_text("broken")
    said = shop.run("restore", "shop", "config")
    assert "fetched from shop@config@" in said
    assert '"v3"' in (shop.conf / "app.json").read_text()

    shop.lose()
    shutil.rmtree(shop.remote)
    (shop.conf / "app.json").write_text("broken")
    said = shop.run("restore", "shop", "config", code=1)
    assert "a person is needed" in said
    assert "ls" in said
    assert (shop.conf / "app.json").read_text() == "broken"


def test_a_calendar_takes_reads_copies_drops_and_tells(shop: Shop, ear: Ear) -> None:
    entry = {"snapshot": "shop/config", "every": "1m", "keep": 2, "restore_test": "*/2 * * * *"}
    shop.configure([{**entry, "offsite": shop.offsite}, {"snapshot": "shop/code", "when": "good"}], bake="2m")
    shop.toy.start("--speed", "60")
    shop.until(lambda: _facts(shop, "SnapshotCopied"), "a copy is there")
    shop.until(lambda: [one for one in _facts(shop, "SnapshotVerified") if one["rehearsed"]], "it was tried out")
    shop.until(lambda: _facts(shop, "SnapshotEnded"), "a run ended")
    assert [path.name for path in shop.remote.iterdir() if not path.name.startswith("shop@config@")] == []
    shop.until(lambda: shop.names("code"), "the repository has a checkpoint of what ran long enough")
    assert shop.names("code")[0].startswith("checkpoint-code-good-")
    assert shop.kept("code")["snapshots"][0]["good"]
    assert git(shop.code, "tag", "--list").splitlines() == shop.names("code")
    assert [one["problems"] for one in _facts(shop, "SnapshotEnded") if one["problems"]] == []
    assert "rollbackd_snapshot_ok{" in shop.metrics()

    shutil.rmtree(shop.remote)
    shop.until(lambda: ear.heard("backup_failed"), "people are told")
    shop.remote.mkdir()
    shop.until(lambda: any("well again" in str(one) for one in ear.heard("backup_failed")), "and that it is over")
    names = [one["name"] for one in _facts(shop, "Snapshotted") if one["layer"] == "config"]
    assert len(names) == len(set(names))


def test_a_rollback_goes_to_the_next_good_state_when_the_newest_is_damaged(shop: Shop) -> None:
    shop.configure([])
    shop.toy.start()
    for version in ("v1", "v2", "v3"):
        shop.write(version)
        _good(shop, version)
    shop.write("v4")
    _seen(shop, "v4")
    shop.damage('"v3"')
    shop.toy.touch("sick")
    shop.toy.alert()
    shop.until(lambda: '"v2"' in (shop.conf / "app.json").read_text(), "it goes back to the one before")
    shop.toy.remove("sick")
    assert shop.toy.until_closed("shop-1")["outcome"] == "recovered"
    assert [decision["action"] for decision in shop.toy.decisions()][:1] == ["roll_back"], "at once, without asking"


def _seen(shop: Shop, version: str) -> None:
    """What runs is a state that the daemon knows, and a snapshot."""

    def present() -> Any:
        kept = shop.kept()["snapshots"]
        state = shop.toy.ask("GET", "services/shop")["present"]
        return kept and state and kept[0]["present"] and state["ids"]["config"] == kept[0]["release"]

    shop.until(present, f"{version} is seen")


def _good(shop: Shop, version: str) -> None:
    _seen(shop, version)
    shop.toy.ask("POST", "services/shop/good", {})


def test_what_is_elsewhere_comes_back_by_itself_for_a_rollback_by_itself(shop: Shop) -> None:
    shop.configure([{"snapshot": "shop/config", "cron": "0 2 1 1 *", "offsite": shop.offsite}])
    shop.toy.start()
    _good(shop, "v1")
    shop.run("take", "shop", "config", "--name", "checkpoint-1")
    shop.write("v2")
    _seen(shop, "v2")
    shop.lose()
    shop.toy.touch("sick")
    shop.toy.alert()
    shop.until(lambda: '"v1"' in (shop.conf / "app.json").read_text(), "the copy came, and it went back")
    shop.toy.remove("sick")
    assert shop.toy.until_closed("shop-1")["outcome"] == "recovered"
    assert [one["why"] for one in _facts(shop, "Snapshotted")][-1] == "offsite"


def test_a_hold_stops_a_restore_and_a_rollback_at_work_does_too(shop: Shop) -> None:
    gate = script(shop.toy.root / "slow", f"test ! -e {shop.toy.root}/wait.it")
    shop.configure([], checks={"health": {"command": [gate]}})
    shop.toy.start()
    _good(shop, "v1")
    shop.toy.touch("signals/HOLD.shop")
    assert "--over-hold" in shop.run("restore", "shop", "config", code=1)
    shop.toy.remove("signals/HOLD.shop")
    shop.write("v2")
    _seen(shop, "v2")
    shop.toy.touch("wait.it")
    shop.toy.alert()
    shop.until(shop.toy.incidents, "it is at work")
    assert "shop-1 is at work" in shop.run("restore", "shop", "config", code=1)
    shop.toy.remove("wait.it")
    shop.toy.until_closed("shop-1")
