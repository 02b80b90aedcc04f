"""The routes of snapshots, on a desk in memory: roles, values, and files that come and go as bytes."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rollbackd.api import snapshot_files
from tests.fakes.serving import Served, serving
from tests.unit.test_cli import run

OF = "/api/v1/services/checkout/snapshots"
ORDERS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("POST", OF, {}),
    ("POST", f"{OF}/verify", {"snapshot": "checkpoint-1"}),
    ("POST", f"{OF}/diff", {"older": "checkpoint-1"}),
    ("POST", f"{OF}/restore", {}),
    ("POST", f"{OF}/prune", {}),
    ("POST", "/api/v1/services/checkout/upgrade", {"layer": "config"}),
)
OCTETS = {"Content-Type": "application/octet-stream"}


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path / "s.sock") as served:
        yield served


async def ask(served: Served, method: str, path: str, body: Any = None, role: str = "operator") -> tuple[int, Any]:
    headers = served.bearer(role) if role else {}
    async with served.tcp.request(method, served.url + path, json=body, headers=headers) as answer:
        return answer.status, json.loads(await answer.read())


async def test_looking_is_for_viewers_and_the_rest_for_operators(served: Served) -> None:
    for method, path, body in ORDERS:
        assert (await ask(served, method, path, body))[0] == 200, path
        assert (await ask(served, method, path, body, "viewer"))[0] == 403, path
    assert (await ask(served, "GET", "/api/v1/snapshots", role="viewer"))[0] == 200
    assert (await ask(served, "GET", f"{OF}/file?snapshot=checkpoint-1", role="viewer"))[0] == 403
    async with served.tcp.put(f"{served.url}{OF}/file", data=b"x", headers=OCTETS) as answer:
        assert answer.status == 401
    assert {order[-1] for order in served.operations.orders} == {"token:release-desk"}


async def test_values_come_as_they_were_asked_for(served: Served) -> None:
    _, brief = await ask(served, "GET", "/api/v1/snapshots?brief=true")
    assert brief == {"layers": [{"service": "checkout", "layer": "config"}]}
    _, whole = await ask(served, "GET", "/api/v1/snapshots?service=checkout&layer=config")
    assert [one["name"] for one in whole["layers"][0]["snapshots"]] == ["checkpoint-1", "bad\x1b[2J"]
    _, taken = await ask(served, "POST", OF, {"layer": "config", "name": "checkpoint-7"})
    assert (taken["snapshot"]["name"], taken["copies"]) == ("checkpoint-7", ["a@b.snapshot"])
    body = {"layer": "config", "snapshot": "checkpoint-1", "only": ["files"], "over_hold": True}
    assert (await ask(served, "POST", f"{OF}/restore", body))[1]["saved"] == "before-1"
    assert served.operations.orders[-1] == ("restore", "checkpoint-1", ("files",), True, "token:release-desk")
    assert (await ask(served, "POST", f"{OF}/prune", {}))[1] == {"dropped": ["old"]}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (f"{OF}/restore", {"snapshot": "damaged"}, 409),
        (f"{OF}/restore", {"layer": "../x"}, 400),
        (f"{OF}/verify", {}, 400),
        (OF, {"layer": "code"}, 404),
        ("/api/v1/services/search/snapshots", {}, 404),
    ],
)
async def test_what_cannot_be_is_a_problem(served: Served, path: str, body: Any, status: int) -> None:
    assert (await ask(served, "POST", path, body))[0] == status


async def test_a_file_goes_out_and_comes_in_whole(served: Served) -> None:
    async with served.unix.get(f"{OF}/file", params={"layer": "config", "snapshot": "checkpoint-1"}) as answer:
        assert (answer.status, answer.content_length) == (200, len(served.operations.content))
        assert await answer.read() == served.operations.content

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 50_000

    async with served.unix.put(f"{OF}/file", data=pieces(), headers=OCTETS) as answer:
        assert answer.status == 200
    assert len(served.operations.taken_in) == 5_000_000
    assert (await ask(served, "GET", f"{OF}/file"))[0] == 400
    async with served.unix.put(f"{OF}/file", data=b"{}", headers={"Content-Type": "application/json"}) as answer:
        assert answer.status == 415
    async with served.unix.put("/api/v1/services/search/snapshots/file", data=b"x", headers=OCTETS) as answer:
        assert answer.status == 404


async def test_a_file_for_which_there_is_no_room_or_that_stalls_is_given_up(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_files, "_LEFT", 2**62)
    async with served.unix.put(f"{OF}/file", data=b"x", headers=OCTETS) as answer:
        assert answer.status == 507
    monkeypatch.setattr(snapshot_files, "_LEFT", 0)
    monkeypatch.setattr(snapshot_files, "_STALLED", 0.05)
    never = asyncio.Event()

    async def stalls() -> AsyncIterator[bytes]:
        yield b"x"
        await never.wait()

    async with served.unix.put(f"{OF}/file", data=stalls(), headers=OCTETS) as answer:
        assert answer.status == 408
    assert served.operations.orders == []


# -- on the command line ------------------------------------------------------------------------
async def snapshot(served: Served, *arguments: str) -> Any:
    return await run("snapshot", *arguments, "--socket", str(served.socket))


async def test_a_line_for_each_layer_and_the_worst_as_the_exit_code(served: Served) -> None:
    taken = await snapshot(served, "take", "--all")
    assert (taken.code, taken.out) == (
        0,
        "checkout/config: snapshot-1, 2 files, 1.5 KiB\n  copied: a@b.snapshot\n",
    )
    verified = await snapshot(served, "verify", "checkout", "--rehearse")
    assert verified.code == 1
    assert verified.out.splitlines() == [
        "checkout/config: checkpoint-1 restored into scratch",
        "checkout/config: bad\\x1b[2J is damaged",
        "  harmed",
    ]
    assert (await snapshot(served, "verify", "checkout", "--name", "nothing")).code == 1
    pruned = await snapshot(served, "prune", "checkout", "config")
    assert (pruned.code, pruned.out) == (0, "checkout/config: 1 dropped: old\n")
    assert [one["dropped"] for one in (await snapshot(served, "prune", "--all", "--json")).json["results"]] == [["old"]]


async def test_the_list_says_what_each_is_good_for(served: Served) -> None:
    listed = await snapshot(served, "list")
    assert listed.code == 1, "the calendar's last run had a problem"
    assert "checkout/config (files): last run 2026-03-01 02:00:00Z" in listed.out
    assert "  problem: off-site: `rclone`: exit 1" in listed.out
    assert "there now, read" in listed.out
    assert "damaged: harmed" in " ".join(listed.out.split())
    assert "\x1b[2J" not in listed.out


async def test_a_restore_says_what_it_did_and_how_to_go_back(served: Served) -> None:
    done = await snapshot(served, "restore", "checkout", "config", "--only", "files")
    assert done.out.splitlines() == [
        "passed over: snapshot two: harmed",
        "checkout/config is at checkpoint-1",
        "  what was there: before-1",
        "  back to that:   rollbackd snapshot restore checkout config before-1",
    ]
    refused = await snapshot(served, "restore", "checkout", "config", "damaged")
    assert (refused.code, refused.error) == (1, "rollbackd: checkout/config was not restored, nothing was touched\n")
    differs = await snapshot(served, "diff", "checkout", "config", "checkpoint-1")
    assert differs.out == "changed /srv/.env\n  TOKEN=***\n"
    assert (await snapshot(served, "diff", "checkout", "config", "a", "b")).out == "nothing differs\n"


async def test_an_upgrade_says_where_it_is_and_which_copy_has_what_was_there(served: Served) -> None:
    async def upgrade(*arguments: str) -> Any:
        return await run("layer", "upgrade", "checkout", *arguments, "--socket", str(served.socket))

    done = await upgrade("config", "--to", "r2", "--over-hold")
    assert done.out.splitlines() == [
        "checkout/config is at r2, announced as upgrade-1",
        "  what was there: r1, in copy snapshot-before-1",
    ]
    assert served.operations.orders[-1][:4] == ("upgrade", "config", "r2", True)
    assert (await upgrade("config", "--to", "r1")).out == "checkout/config is at r1 already; nothing was done\n"
    assert (await upgrade("config", "--json")).json["copy"] == "snapshot-before-1"
    refused = await upgrade("config", "--to", "r9", "--json")
    assert (refused.code, refused.json["detail"]) == (
        1,
        "checkout/config: r9 fails on a copy; nothing else was touched",
    )
    assert (await upgrade("code")).code == 1
    before = await run("layer", "--json", "upgrade", "checkout", "config", "--socket", str(served.socket))
    assert before.json["after"] == "r3"
    wrong = await run("layer", "--list", "upgrade", "checkout", "config")
    assert (wrong.code, wrong.error) == (2, "rollbackd: upgrade takes nothing before it but --json\n")


async def test_files_belong_to_whoever_runs_the_command(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "out.tar.gz"
    assert (await snapshot(served, "export", "checkout", "config", "checkpoint-1", str(file))).code == 0
    assert file.read_bytes() == served.operations.content
    assert (file.stat().st_mode & 0o777, sorted(os.listdir(tmp_path))) == (0o600, ["out.tar.gz", "page.key", "s.sock"])
    assert (await snapshot(served, "import", "checkout", "config", str(file))).code == 0
    assert served.operations.taken_in == served.operations.content
    missing = await snapshot(served, "import", "checkout", "config", str(tmp_path / "no"))
    assert (missing.code, missing.error) == (1, f"rollbackd: {tmp_path}/no: no such file or directory\n")
    nowhere = await snapshot(served, "export", "checkout", "config", "checkpoint-1", str(tmp_path / "no/file"))
    assert nowhere.code == 1
    unknown = await snapshot(served, "export", "checkout", "code", "checkpoint-1", str(tmp_path / "x"))
    assert (unknown.code, (tmp_path / "x").exists()) == (1, False)


@pytest.mark.parametrize(
    "arguments",
    [("take",), ("take", "checkout", "--all"), ("take", "checkout", "--name", "x"), ("verify",), ("prune",)],
)
async def test_what_is_not_clear_is_asked_back(served: Served, arguments: tuple[str, ...]) -> None:
    ran = await snapshot(served, *arguments)
    assert ran.code == 2
    assert "rollbackd snapshot" in ran.error


async def test_without_a_daemon_it_says_so(tmp_path: Path) -> None:
    for command in (("list",), ("export", "a", "b", "c", str(tmp_path / "x"))):
        ran = await run("snapshot", *command, "--socket", str(tmp_path / "none"))
        assert ran.code == 3
    assert not (tmp_path / "x").exists()
