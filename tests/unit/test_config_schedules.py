"""The calendar in the configuration: every fault at its place, in words that say what to write."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from rollbackd.config.load import ConfigErrors, load
from rollbackd.config.schedules import DrillSchedule, SnapshotSchedule

BROKEN = """\
daemon: {mode: act, open_on_loopback: true}
schedules:
  - {snapshot: checkout/code, cron: "0 2 * *"}
  - {snapshot: checkout/cod, every: 6h}
  - {snapshot: checkot, every: 1s}
  - {snapshot: checkout, every: 6h, zone: Mars}
  - {snapshot: checkout/page, every: 6h, offsite: {push: [rclone, copy]}}
  - {drill: checkout, cron: "0 0 31 2 *", plan: full, execute: true}
  - {dril: checkout}
  - {drill: checkout, snapshot: x, every: 1h}
  - {snapshot: checkout, every: 6h, cron: 0 2 * * *}
  - {snapshot: checkout, kep: 5}
  - {snapshot: 5, every: 6h}
  - x
  - {snapshot: checkout/code, every: 12h, offsite: {push: [cp, "{file}", /mnt], list: [ls, /mnt]}}
  - {snapshot: checkout/code, every: 12h, keep: 3}
  - {snapshot: checkout/code, cron: 0 3 * * *, offsite: {push: [cp, "{file}", /mnt], list: [ls, /mnt], pull: [cp, "{name}"]}}
  - {snapshot: checkout/code, when: good, every: 12h}
  - {snapshot: checkout/code, when: bad}
  - {drill: checkout}
  - {snapshot: checkout, when: good}
  - {snapshot: checkout, when: good, keep: 9}
  - {snapshot: checkout, every: 2h, offsite: {push: [cp, "{file}", /mnt]}}
  - {snapshot: checkout/far, every: 2h, offsite: {push: [cp, "{file}", /mnt]}}
  - {snapshot: checkout/far, every: 3h}
  - {snapshot: checkout/code, every: 4h, kind: schema}
  - {snapshot: checkout, every: 5h, kind: schema}
  - {snapshot: checkout/db, every: 5h, kind: schema, restore_test: 0 3 * * *}
  - {snapshot: checkout/db, every: 5h}
services:
  - name: checkout
    match: {service: checkout}
    layers: {code: {adapter: git, repo: /srv/checkout}, page: {adapter: command, apply: [x], current: [y], releases: [z]}, far: {adapter: remote, ssh: web1, traits: [step, snapshots]}, db: {adapter: postgres, dsn: "host=/run/postgresql dbname=shop"}}
    verify: {checks: [{tcp: "127.0.0.1:3000"}]}
"""
SAID = """\
3:31: "0 2 * *" is no cron line; write it like "0 2 * * *" (minute, hour, day, month, day of the week)
4:6: unknown layer "cod"; did you mean "code"?
5:6: unknown service "checkot"; did you mean "checkout"?
5:25: this is at least 1m; write it like 6h
6:37: "Mars" is no time zone; write one like Europe/Berlin or UTC
7:6: layer "page" keeps no snapshots; those that do are code, far, db
7:52: nothing of it is {file}; write that where the path of the file to send goes
8:23: "0 0 31 2 *" never comes; write it like "0 2 * * *" (minute, hour, day, month, day of the week)
8:43: unknown plan "full"; there is default
8:55: "checkout" may not be drilled for real; say drill: true there, or leave this out
9:6: unknown kind of schedule "dril"; did you mean "drill"?
10:6: "snapshot" and "drill" are two kinds of one thing; write each by itself
10:23: unknown service "x"; there is checkout
11:5: it says when in one way; write cron: "0 2 * * *", every: 6h or when: good
12:26: unknown key "kep"; did you mean "keep"?
13:6: this must be text, and YAML reads it as a number; put it in quotes
14:5: no kind of schedule here; write one of drill, report, snapshot
15:43: `list` and `pull` go together: what is there, and how one of it is fetched; give both
16:6: this is on the calendar at these times already; take one away
17:104: nothing of it is {directory}; write that where the directory to put it into goes
18:5: it says when in one way; write cron: "0 2 * * *", every: 6h or when: good
19:31: "bad" does not fit; write one of good
20:5: it says when in one way; write cron: "0 2 * * *" or every: 6h
22:6: this is on the calendar at these times already; take one away
23:37: snapshots of layer "far" are on another host and cannot be sent from here; take `offsite` away and copy them over there, and give the other layers an entry for each
24:41: snapshots of layer "far" are on another host and cannot be sent from here; take `offsite` away and copy them over there
26:42: layer "code" has no schema that is kept alone; a layer of adapter postgres has
27:37: the schema alone is kept of one layer; write SERVICE/LAYER
28:54: copies of the schema alone have no `restore_test`; take it away, or leave `kind` out
"""


def test_every_fault_is_told_at_once_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(BROKEN)
    with pytest.raises(ConfigErrors) as caught:
        load(path, look_for=None)
    assert [line.removeprefix(f"{path}:") for line in str(caught.value).splitlines()] == SAID.splitlines()


def configured(tmp_path: Path, *schedules: dict[str, Any]) -> Any:
    document = yaml.safe_load(BROKEN) | {"schedules": list(schedules)}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(document))
    return load(tmp_path / "config.yaml", look_for=None).config.schedules


def test_each_kind_is_told_by_its_own_key(tmp_path: Path) -> None:
    snapshot, drill = configured(
        tmp_path, {"snapshot": "checkout", "every": "6h"}, {"drill": "checkout", "cron": "0 4 1 * MON"}
    )
    assert (type(snapshot), type(drill)) == (SnapshotSchedule, DrillSchedule)
    assert (snapshot.verify, snapshot.keep, snapshot.offsite) == (True, 0, None)
    assert drill.cron == "0 4 1 * mon"


def test_a_service_without_a_layer_that_keeps_any_is_refused(tmp_path: Path) -> None:
    document = yaml.safe_load(BROKEN) | {"schedules": [{"snapshot": "checkout", "every": "1d"}]}
    for layer in ("code", "far", "db"):
        del document["services"][0]["layers"][layer]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(ConfigErrors, match='no layer of "checkout" keeps snapshots'):
        load(tmp_path / "config.yaml", look_for=None)
