"""A person stops it with `touch`, whatever else is down, also over a reboot; and gives orders by files."""

import os
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.toy import Ear, Toy, toy
from tests.servers import wait_until


@pytest.fixture
def quick(tmp_path: Path, ear: Ear) -> Iterator[Toy]:
    """The same at 20 times the speed: notices alike within a minute are told together."""
    patient = {"settle": "0s", "every": "5s", "passes": 2, "deadline": "10m", "watch": "1m", "checks": ["health"]}
    with toy(tmp_path / "shop", told=ear.url, verify=patient, daemon={"look_every": "10s"}) as one:
        one.start_with_two_states("--speed", "20")
        yield one


def against(shop: Toy) -> str:
    """What stands against the newest decision."""
    decisions = shop.decisions()
    return "; ".join(one["reason"] for one in decisions[-1]["findings"] if one["against"]) if decisions else ""


def until_refused(shop: Toy, said: str) -> None:
    wait_until(lambda: said in against(shop), f'it is refused: "{said}"')
    assert shop.calls == []
    assert shop.incidents() == []


def until_moved(shop: Toy, name: str, to: str = "done") -> str:
    """Wait until an order was put away; the reason beside it, if there is one."""
    directory = shop.signals / to

    def moved() -> list[Path]:
        return list(directory.glob(f"*.{name}")) if directory.exists() else []

    wait_until(lambda: bool(moved()), f"{name} is in {to}/")
    assert not (shop.signals / name).exists()
    beside = moved()[0].with_name(f"{moved()[0].name}.reason")
    if to == "rejected":
        wait_until(beside.exists, "the reason is beside it")
        return beside.read_text()
    assert not beside.exists()
    return ""


# -- holds --------------------------------------------------------------------------------------
def test_another_directory_in_its_place_holds_everything_and_is_announced(shop: Toy, ear: Ear) -> None:
    shop.signals.rename(shop.root / "before")
    shop.signals.mkdir(mode=0o770)
    shop.alert()
    until_refused(shop, "was replaced since rollbackd started")
    wait_until(lambda: "was replaced since rollbackd started" in ear.text(), "it is announced")
    (shop.signals / "ROLLBACK.shop").touch()
    shop.signals.rename(shop.root / "other")
    (shop.root / "before").rename(shop.signals)
    wait_until(lambda: len(shop.incidents()) == 1, "the alert that goes on is decided again")
    assert shop.until_closed("shop-1")["outcome"] == "recovered"
    assert shop.incidents()[0]["rule"] == "sick"


def test_a_misspelt_hold_holds_also_after_a_reboot_until_it_is_removed(shop: Toy) -> None:
    hold = shop.touch("signals/HOLD.shop")
    hold.write_text("untill: 2020-01-01T00:00:00Z\n")
    shop.alert()
    until_refused(shop, 'not understood (unknown line "untill:"): held until it is removed')
    shop.reboot()
    shop.alert()
    until_refused(shop, "held until it is removed")
    assert "HOLD.shop by unix:" in shop.command("status").stdout
    hold.unlink()
    wait_until(lambda: len(shop.incidents()) == 1, "the alert that goes on is decided again")
    assert shop.until_closed("shop-1")["outcome"] == "recovered"
    assert shop.runs == "co-v1"


def test_a_hold_between_entering_and_the_step_stops_it_there_also_over_a_reboot(shop: Toy, ear: Ear) -> None:
    gate = shop.root / "gate"
    hold = shop.signals / "HOLD"
    gate.write_text(gate.read_text().replace("touch entered ;;", f"touch entered; touch '{hold}' ;;"))
    incident = shop.ask("POST", "services/shop/rollback", {})["incident"]
    shop.until_status(incident, "paused")
    assert shop.calls == ["enter"]
    (told,) = ear.until_heard("paused")
    assert ["Still entered" in line["heading"] or "page" in line["text"] for line in told["lines"]].count(True)
    shop.reboot()
    last = shop.records(incident)[-1]["n"]
    news = shop.ask("GET", f"incidents/{incident}?after={last}&wait=3s")["records"]
    assert [record["kind"] for record in news if record["kind"] != "Told"] == []  # a message may arrive only now
    assert shop.until_status(incident, "paused")["entered"] == ["page"]
    assert shop.calls == ["enter"]
    assert (shop.root / "entered").exists()
    hold.unlink()
    assert shop.until_closed(incident)["outcome"] == "recovered"
    assert shop.calls == [
        "enter", "begin config co-v1", "end config co-v1", "begin code co-v1", "end code co-v1", "leave",
    ]  # fmt: skip


def test_a_hold_between_two_steps_and_before_leaving_stops_it_at_each(shop: Toy) -> None:
    hold = shop.signals / "HOLD.shop"
    shop.touch("wait.config")
    incident = shop.ask("POST", "services/shop/rollback", {})["incident"]
    shop.until_call("begin config co-v1")
    hold.touch()
    shop.remove("wait.config")
    shop.until_status(incident, "paused")
    assert shop.calls[-1] == "end config co-v1"
    shop.touch("wait.code")
    hold.unlink()
    shop.until_call("begin code co-v1")
    hold.touch()
    shop.remove("wait.code")
    shop.until_status(incident, "paused")
    assert shop.calls[-1] == "end code co-v1"
    assert (shop.root / "entered").exists()
    hold.unlink()
    assert shop.until_closed(incident)["outcome"] == "recovered"
    assert shop.kinds(incident).count("Paused") == shop.kinds(incident).count("Unpaused") == 2


def test_touch_is_enough_with_the_api_and_the_receivers_down(tmp_path: Path) -> None:
    """Nobody answers at the receiver's address; the socket is taken away; the disk's journal is all that is left."""
    with toy(tmp_path / "shop", told=f"http://127.0.0.1:{_closed_port()}/") as shop:
        shop.start_with_two_states()
        (shop.root / "socket").unlink()
        shop.touch("signals/HOLD")
        shop.alert()
        until_refused(shop, "HOLD by unix:")


def _closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_a_directory_open_to_others_keeps_it_from_starting_with_one_sentence(tmp_path: Path) -> None:
    with toy(tmp_path / "shop") as shop:
        shop.signals.chmod(0o1777)
        done = shop.command("run")
        assert done.returncode == 1
        assert done.stderr == f"{shop.signals}: mode 1777 lets anybody give orders; chmod 1770\n"


def test_a_hold_for_a_service_that_there_is_not_is_announced(shop: Toy, ear: Ear) -> None:
    shop.touch("signals/HOLD.shp")
    wait_until(lambda: "HOLD.shp holds nothing: there is no service of that name" in ear.text(), "it is announced")


def test_symlink_directory_and_fifo_hold_like_a_file(shop: Toy) -> None:
    hold = shop.signals / "HOLD.shop"
    makes: tuple[Callable[[Path], object], ...] = (lambda path: path.symlink_to("/dev/null"), Path.mkdir, os.mkfifo)
    for number, make in enumerate(makes):
        make(hold)
        status, said, _ = shop.refused("POST", "services/shop/rollback", {})
        assert status == 409
        assert "not understood (not a regular file): held until it is removed" in said
        hold.rename(shop.root / f"away{number}")
    assert shop.calls == []


# -- orders -------------------------------------------------------------------------------------
def test_an_order_that_a_shell_writes_slowly_is_taken_once_and_whole(shop: Toy) -> None:
    """A redirect makes the file empty first; the lines come when the program behind it gets to them."""
    script = "{ sleep 0.6; echo 'to: code=co-v3'; sleep 0.6; echo 'plan: code'; echo 'reason: v2 is slow'; } > \"$0\""
    subprocess.run(["sh", "-c", script, str(shop.signals / "ROLLBACK.shop")], check=True, timeout=30)
    until_moved(shop, "ROLLBACK.shop")
    (incident,) = shop.incidents()
    assert shop.until_closed(incident["id"])["outcome"] == "recovered"
    assert shop.calls == ["begin code co-v3", "end code co-v3"]
    (decision,) = shop.decisions()
    assert "v2 is slow" in decision["evidence"][0]
    assert shop.records("shop-1")[0]["actor"].startswith("unix:")


@pytest.mark.needs("root")
def test_the_owner_of_the_file_is_the_actor(shop: Toy) -> None:
    order = shop.root / "ROLLBACK.shop"
    order.touch()
    os.chown(order, 65534, 65534)
    order.rename(shop.signals / order.name)
    until_moved(shop, "ROLLBACK.shop")
    assert shop.until_closed("shop-1")["outcome"] == "recovered"
    assert shop.records("shop-1")[0]["actor"] == "unix:nobody"


def test_an_abort_by_file_stops_the_open_incident(shop: Toy) -> None:
    shop.touch("wait.config")
    shop.touch("signals/ROLLBACK.shop")
    shop.until_call("begin config co-v1")
    (shop.signals / "ABORT.shop").write_text("reason: wrong service\n")
    until_moved(shop, "ABORT.shop")
    shop.remove("wait.config")
    closed = shop.until_closed("shop-1")
    assert closed["outcome"] == "aborted"
    assert "wrong service" in closed["reason"]
    assert shop.calls[-1] == "leave"
    shop.touch("signals/ABORT.shop")
    assert "shop-1 has ended: aborted" in until_moved(shop, "ABORT.shop", "rejected")


@pytest.mark.parametrize("kill_at", ["orders.taken", "orders.done"])
def test_an_order_is_carried_out_once_also_when_killed_before_it_was_moved_away(shop: Toy, kill_at: str) -> None:
    shop.stop()
    shop.start("--kill-at", kill_at)
    order = shop.touch("signals/ROLLBACK.shop")
    assert shop.daemon is not None
    wait_until(lambda: shop.daemon is not None and shop.daemon.poll() == -signal.SIGKILL, "it is killed")
    assert order.exists()
    shop.start()
    until_moved(shop, "ROLLBACK.shop")
    wait_until(lambda: len(shop.incidents()) == 1, "the incident is there")
    assert shop.until_closed("shop-1")["outcome"] == "recovered"
    shop.reboot()
    assert [one["id"] for one in shop.incidents()] == ["shop-1"]
    assert shop.calls.count("begin code co-v1") == 1
    with closing(sqlite3.connect(f"file:{shop.journal}?mode=ro", uri=True)) as connection:
        rows = connection.execute("select key from inbox where source = 'file'").fetchall()
    assert len(rows) == 1


def test_an_order_that_is_refused_is_put_aside_with_the_reason_and_told(quick: Toy, ear: Ear) -> None:
    for name, text, said in (
        ("ROLLBACK.shop", "to: code=v9\n", 'code: no release "v9"'),
        ("ROLLBACK.shop", "too: v1\n", 'unknown line "too:"; it takes plan, reason, to'),
        ("ROLLBACK.shp", "", 'there is no service "shp"'),
        ("RESTART.shop", "", '"RESTART" is no command'),
        ("rollback.shop", "", '"rollback" is no command; there are HOLD, HOLD.<service>, ROLLBACK.<service>, APPROVE'),
    ):
        (quick.root / "order").write_text(text)
        (quick.root / "order").rename(quick.signals / name)
        assert said in until_moved(quick, name, "rejected")
        wait_until(lambda said=said: said in _spoken(ear), f"{said} is told")  # type: ignore[misc]
        for path in (quick.signals / "rejected").iterdir():
            path.unlink()
    assert quick.incidents() == []
    assert quick.calls == []


def _spoken(ear: Ear) -> str:
    return "\n".join(line["text"] for one in ear.fake.once for line in one["lines"])


def test_hostile_names_are_only_text(quick: Toy, ear: Ear) -> None:
    names = (
        b"ROLLBACK.../../etc".replace(b"/", b"\xe2\x88\x95"), b"ROLLBACK...", b"ROLLBACK.shop\nABORT.shop", b"\xff\xfe",
        b"HOLD.\xff", b"HOLD.$(touch hacked)\x1b[2J", b"--help", b"ROLLBACK.shop;touch hacked", b"x" * 255,
    )  # fmt: skip
    for name in names:
        Path(os.fsdecode(os.fsencode(quick.signals) + b"/" + name)).touch()
    rejected = quick.signals / "rejected"
    wait_until(lambda: rejected.exists() and len(list(rejected.iterdir())) == 2 * (len(names) - 2), "all are put aside")
    wait_until(lambda: "HOLD.\\xff holds nothing" in _spoken(ear), "the unknown holds are announced")
    assert sorted(path.name for path in quick.signals.iterdir() if path.is_file()) == [
        "HOLD.$(touch hacked)\x1b[2J",
        "HOLD.\udcff",
    ]
    assert quick.incidents() == []
    assert not list(quick.root.rglob("hacked"))
    assert "\x1b" not in quick.command("status").stdout + quick.command("status", "shop").stdout
    assert {hold["scope"] for hold in quick.ask("GET", "holds")["holds"]} == {"\\xff", "$(touch hacked)\x1b[2J"}
    assert "Traceback" not in quick.log
    (quick.signals / "ROLLBACK.shop").touch()
    until_moved(quick, "ROLLBACK.shop")
    assert quick.until_closed("shop-1")["outcome"] == "recovered"
