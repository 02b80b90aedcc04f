"""The commands of snapshots: what they say while they work, and when something is amiss."""

import sys
from typing import Any

import pytest

from rollbackd.cli import snapshot_commands
from rollbackd.cli.command_frame import NO, Session, StopError

WHOLE = {
    "name": "one", "created": "2026-03-01T02:00:00Z", "why": "manual", "files": 1, "size": 1, "restorable": True,
    "present": False, "good": False, "verified": None, "rehearsed": False, "problems": [],
}  # fmt: skip
LOST = {**WHOLE, "name": "lost", "restorable": False}
SCHEMA = {**LOST, "name": "schema", "kind": "schema"}
UNREADABLE = {**LOST, "name": "odd", "why": "unreadable", "created": "1970-01-01T00:00:00Z"}


class Asked:
    """Stands in for the daemon's socket."""

    def __init__(self, *snapshots: dict[str, Any]) -> None:
        kept: dict[str, Any] = {
            "service": "shop", "layer": "config", "adapter": "files", "problem": "", "problems": [],
        }  # fmt: skip
        self.layer: dict[str, Any] = {
            **kept,
            "snapshots": list(snapshots),
            "ended": None,
            "next": None,
            "at_work": False,
        }
        self.orders: list[Any] = []
        self.interrupted = False

    def get(self, *_parts: str, **_query: Any) -> Any:
        return {"layers": [self.layer]}

    def send(self, _method: str, *_parts: str, body: dict[str, Any], **_more: Any) -> Any:
        if self.interrupted:
            raise KeyboardInterrupt
        self.orders.append(body)
        one = next((each for each in self.layer["snapshots"] if each["name"] == body.get("snapshot")), WHOLE)
        problems = [] if one["restorable"] else ["snapshot lost: its content cannot be read"]
        return {"service": "shop", "layer": "config", "snapshot": one, "problems": problems, "copies": []}


def session(asked: Asked) -> Session:
    made = Session()
    made.__dict__["client"] = asked
    return made


@pytest.mark.parametrize(
    ("snapshots", "code"), [([WHOLE], None), ([WHOLE, SCHEMA], None), ([WHOLE, LOST], NO), ([UNREADABLE], NO)]
)
def test_a_list_with_a_damaged_snapshot_is_no_success(
    snapshots: list[dict[str, Any]], code: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert snapshot_commands.listed(session(Asked(*snapshots))) == code
    assert "1970" not in capsys.readouterr().out


def test_each_snapshot_is_read_also_one_that_is_known_to_be_damaged(capsys: pytest.CaptureFixture[str]) -> None:
    asked = Asked(WHOLE, LOST)
    assert snapshot_commands.verify(session(asked), "shop") == NO
    assert [order["snapshot"] for order in asked.orders] == ["one", "lost"]
    assert "lost is damaged\n  snapshot lost: its content cannot be read" in capsys.readouterr().out


def test_who_waits_before_a_terminal_hears_what_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    snapshot_commands.verify(session(Asked(WHOLE)), "shop")
    assert capsys.readouterr().err == "shop/config: one is read …\n"


def test_who_goes_away_hears_that_it_goes_on() -> None:
    asked = Asked(WHOLE)
    asked.interrupted = True
    with pytest.raises(StopError, match="goes on with it"):
        snapshot_commands.take(session(asked), "shop")
