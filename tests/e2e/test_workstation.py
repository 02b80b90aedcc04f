"""The example of a workstation, as it is shipped, in each of its scenarios: real dockerd, git, Prometheus, rsync.

systemd and the reconciler are stood in for, and waits are shorter. What a scenario may take is its runbook's own
limit, for the time that is measured here together with the waits that are shipped.
"""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.dockerd import PROGRAMS, Dockerd
from tests.e2e.ops_host import body
from tests.e2e.toy import Ear, json_lines, listening, webhook
from tests.e2e.workstation import SHIPPED, Workstation, reconciler, sooner, waits, workstation
from tests.servers import wait_until

pytestmark = [pytest.mark.timeout(240), pytest.mark.needs(*PROGRAMS, "git", "prometheus", "rsync")]

ONE_MINUTE, TWO_MINUTES = timedelta(minutes=1), timedelta(minutes=2)
FIVE_MINUTES, TEN_MINUTES = timedelta(minutes=5), timedelta(minutes=10)
SYSTEMD = timedelta(seconds=5)
"""`RestartSec` of the shipped unit."""


@pytest.fixture(scope="module")
def ear() -> Iterator[Ear]:
    with listening() as one:
        yield one


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, docker: Dockerd, ear: Ear) -> Iterator[Workstation]:
    """All of it runs, and is known to be good."""
    with workstation(tmp_path_factory.mktemp("w"), docker, ear.url, sooner) as made, reconciler(made):
        made.marked_good()
        yield made


@pytest.fixture(autouse=True)
def _well_before(host: Workstation) -> None:
    """Each scenario begins in a state that is known to be good, and may be told alone."""
    wait_until(lambda: host.good("workstation") and host.calm(), "a good state runs")
    assert body(host.at("try"))[0] == 200


# -- E1, E2, E9: a deployment --------------------------------------------------------------------
def test_a_deployment_goes_back_through_the_branch_and_a_crash_midway_loses_nothing(
    host: Workstation, ear: Ear
) -> None:
    good, settings = host.tree(), host.settings.read_text()
    host.publish("v2", model="large")
    host.seen(repository=host.tree(), clone=host.tree())
    assert host.begin() == 200, "a short session, which may end"
    session, incident = host.lasting(), host.next
    host.reconciling.clear()
    assert "is reported" in host.said("event", "e2e_failed", "--service", "workstation", "--key", "run/1")
    host.until_opened(incident)
    wait_until(lambda: host.begin() == 503, "no new sessions are taken")
    wait_until(lambda: host.tree() == good, "it was reverted and pushed")
    asked = host.asked("version")
    wait_until(lambda: host.asked("version") > asked, "it is asked what is applied")
    assert "Applied" not in host.kinds(incident), "it is done when it is reconciled"
    began = time.monotonic()
    host.stop(kill=True)
    host.start()
    host.reconciling.set()
    host.until_recovered(incident)
    assert timedelta(seconds=time.monotonic() - began) + SYSTEMD + waits(detection=False) <= ONE_MINUTE
    assert host.git(host.remote, "rev-list", "--count", "v2..main") == "1", "one commit on top, once"
    assert host.git(host.clone, "rev-parse", "HEAD^{tree}") == good
    assert host.settings.read_text() == settings
    assert session not in host.docker.docker("ps", "--quiet", "--no-trunc"), "the limit was over"
    assert host.begin() == 200
    report = host.said("incidents", incident).partition("opened for e2e-failed")[2]
    order = (
        "entering sessions", "entered sessions", "applying repository", "applied repository", "applied clone",
        "applied process", "left sessions", "verification good", "recovered",
    )  # fmt: skip
    assert [text for text in order if text not in report] == []
    assert sorted(order, key=report.index) == list(order), report
    assert host.said("audit")
    *facts, ended = json_lines(host.said("incidents", incident, "--watch", "--json"))
    layers = [one["fact"]["layer"] for one in facts if one["kind"] == "Applied"]
    assert (layers, ended["outcome"]) == (["repository", "clone", "process"], "recovered")
    wait_until(lambda: any(one["incident"] == incident for one in ear.heard("recovered")), "people are told")


# -- E1, E5, E9: the configuration ---------------------------------------------------------------
def test_a_damaged_configuration_is_back_with_its_modes_and_without_what_is_extra(host: Workstation) -> None:
    before, repository = host.settings.read_text(), host.tree()
    with host.within(TWO_MINUTES) as incident:
        host.sick()
        (host.config / "extra.json").write_text("{}")
        (host.config / ".env").chmod(0o644)
    assert host.settings.read_text() == before
    assert not (host.config / "extra.json").exists()
    assert (host.config / ".env").stat().st_mode & 0o777 == 0o600
    assert host.tree() == repository
    assert host.saved(incident, "config")


def test_what_was_deleted_by_accident_is_back_in_a_minute(host: Workstation) -> None:
    before = host.settings.read_text()
    with host.within(ONE_MINUTE):
        shutil.rmtree(host.config)
    assert host.settings.read_text() == before


def test_an_error_rate_goes_back_though_the_smoke_test_passes(host: Workstation) -> None:
    before = host.settings.read_text()
    host.settings.write_text(json.dumps({"language": "en", "start": ["false"]}))
    incident = host.next

    def opened() -> bool:
        return host.begin() == 500 and incident in {one["id"] for one in host.incidents()}

    wait_until(opened, "more than a tenth of the answers fail")
    host.until_recovered(incident)
    assert host.settings.read_text() == before
    assert "rule errors" in host.said("incidents", incident), "verified by the query, too"


def test_a_backup_that_is_damaged_is_passed_over(host: Workstation) -> None:
    """E4: the newest good state cannot be read any more, so the one before it is taken."""
    before, release = host.settings.read_text(), host.present("workstation")["config"]
    host.settings.write_text(before.replace('"en"', '"fr"'))
    host.changed("config", release)
    host.marked_good()
    blobs = [path for path in (host.store("config") / "blobs").rglob("*") if path.is_file()]
    (newest,) = [path for path in blobs if '"fr"' in path.read_text()]
    newest.write_text("X" * newest.stat().st_size)
    with host.within(TWO_MINUTES):
        host.sick()
    assert host.settings.read_text() == before


# -- E6, E9: the repository, the data ------------------------------------------------------------
def _objects(clone: Path) -> None:
    shutil.rmtree(clone / ".git/objects")
    (clone / ".git/objects").mkdir()


@pytest.mark.parametrize("damage", [shutil.rmtree, _objects], ids=["gone", "without objects"])
def test_a_repository_that_is_damaged_is_cloned_anew(host: Workstation, damage: Callable[[Path], None]) -> None:
    (host.clone / "notes.txt").write_text("not committed\n")
    there = len(list(host.home.glob("gitops.damaged-*/notes.txt")))
    with host.within(FIVE_MINUTES):
        damage(host.clone)
    assert host.git(host.clone, "status", "--porcelain") == ""
    assert host.git(host.clone, "rev-parse", "HEAD^{tree}") == host.tree()
    kept = len(list(host.home.glob("gitops.damaged-*/notes.txt"))) - there
    assert kept == (damage is _objects), "what was not committed is in the old one, where there is one"


def test_a_critical_alert_takes_the_data_back_and_keeps_what_was_there(host: Workstation, tmp_path: Path) -> None:
    before = (host.library / "handbook.txt").read_text()
    release = host.present("workstation")["data"]
    (host.home / "inbox/handbook.txt").write_text("nonsense\n")
    host.sync()
    host.changed("data", release)
    with host.within(TEN_MINUTES) as incident:
        alert = webhook("DataCorruption", "workstation", datetime.now(UTC))
        alert["alerts"][0]["labels"]["severity"] = "critical"
        known = {one["id"] for one in host.incidents()}
        host.ask("POST", "alerts", alert, token="the token alertmanager")
        host.ends_when_well(alert, known, "the token alertmanager")
    assert (host.library / "handbook.txt").read_text() == before
    newest = json.loads(host.said("incidents", "--json"))["incidents"][0]
    assert lost(newest) < timedelta(hours=1)
    archive = tmp_path / "damaged.tar.gz"
    host.said("snapshot", "export", "workstation", "data", host.saved(incident, "data"), str(archive))
    assert archive.exists()


def lost(incident: dict[str, Any]) -> timedelta:
    """How old the data is that came back, as the README has it: from the name of its snapshot."""
    (came,) = [step["after"] for step in incident["steps"] if step["layer"] == "data"]
    found = re.search(r"\d{8}T\d{6}Z", came)
    assert found is not None, came
    return datetime.fromisoformat(incident["opened"]) - datetime.strptime(found[0], "%Y%m%dT%H%M%S%z")


def test_all_data_and_all_local_backups_are_gone(host: Workstation) -> None:
    """E6: the copies on the other disk are used; credentials come by a command."""
    settings, catalogue = host.settings.read_text(), (host.library / "catalogue.json").read_text()
    host.said("snapshot", "take", "workstation")  # as the sync does; the calendar says where copies go
    with host.within(TEN_MINUTES) as incident:
        for number, lost in enumerate((host.store("config"), host.store("data"), host.config, host.library)):
            lost.rename(host.root / f"lost.{incident}.{number}")
    assert (host.settings.read_text(), (host.library / "catalogue.json").read_text()) == (settings, catalogue)
    registry = host.home / ".credentials/registry"
    assert (registry.read_text(), registry.stat().st_mode & 0o777) == ("a secret", 0o600)


# -- E7, E9: before each sync --------------------------------------------------------------------
def test_a_snapshot_before_each_sync_leaves_an_hour_at_most_to_lose(host: Workstation) -> None:
    unit = dict(
        line.split("=", 1) for line in (SHIPPED / "workstation-sync.service").read_text().splitlines() if "=" in line
    )
    before = (host.library / "catalogue.json").read_text()
    assert "data" in host.said(*unit["ExecStartPre"].split()[1:])
    (host.home / "inbox/new.txt").write_text("chapter two\n")
    host.sync()
    host.said(*unit["ExecStartPost"].split()[1:])
    host.seen()
    assert "restored into scratch" in host.said("snapshot", "verify", "workstation", "data", "--rehearse")
    host.said("snapshot", "restore", "workstation", "data")
    assert (host.library / "catalogue.json").read_text() == before
    assert "OnCalendar=hourly" in (SHIPPED / "workstation-sync.timer").read_text()


# -- E3, E5: by hand -----------------------------------------------------------------------------
def test_a_person_goes_back_to_what_they_name(host: Workstation) -> None:
    tree, before = host.tree(), host.settings.read_text()
    host.said("snapshot", "take", "workstation", "config", "--name", "before-the-summer")
    host.said("snapshot", "take", "workstation", "config")
    host.settings.write_text(before.replace('"en"', '"de"'))
    tag = f"v{time.monotonic_ns()}"
    host.publish(tag, model="large")
    host.seen(repository=host.tree(), clone=host.tree())
    commit = host.git(host.remote, "rev-parse", f"{tag}^")
    shown = json.loads(host.said("plan", "workstation", "--to", f"repository={commit}", "--plan", "whole", "--json"))
    assert [step["layer"] for step in shown["steps"]] == ["repository", "process"], "a commit is taken back"
    assert "recovered" in host.said("rollback", "workstation", "--to", "config=before-the-summer", "--yes")
    assert (host.settings.read_text(), host.tree()) == (before, host.tree(tag))
    incident = host.next
    (host.signals / "ROLLBACK.workstation").write_text("to: repository=v1\nplan: whole\n")
    host.until_recovered(incident)
    assert (host.tree(), host.git(host.clone, "rev-parse", "HEAD^{tree}")) == (tree, host.tree(tag))
    assert "recovered" in host.said("rollback", "workstation", "--plan", "whole", "--yes"), "to what was good last"
    assert host.git(host.clone, "rev-parse", "HEAD^{tree}") == tree


def test_a_restore_that_fails_leaves_what_was_there(host: Workstation) -> None:
    """E5: what the syntax check does not take is noticed before the first file is put in place."""
    before = host.settings.read_text()
    with host.held():
        host.settings.write_text("{")
        host.said("snapshot", "take", "workstation", "config", "--name", "broken")
        host.settings.write_text(before)
        (host.config / "extra.json").write_text("{}")
        done = host.command("snapshot", "restore", "workstation", "config", "broken", "--over-hold", "--yes")
        assert (done.returncode, "settings.json" in done.stdout + done.stderr) == (1, True), done.stdout + done.stderr
        assert (host.settings.read_text(), (host.config / "extra.json").read_text()) == (before, "{}")
        (host.config / "extra.json").unlink()


def test_with_no_backup_left_a_person_is_called(host: Workstation) -> None:
    """E4: no snapshot of the good state is left here or elsewhere. Nothing is touched; by hand it comes back."""
    before, known, incidents = host.settings.read_text(), len(host.decisions()), len(host.incidents())
    host.vault.rename(host.root / "copies")
    host.vault.mkdir()
    host.store("config").rename(host.root / "store")
    host.sick()
    damaged = host.settings.read_text()

    def called() -> bool:
        decided = host.decisions()[known:]
        return any(one["escalate"] and "no good state to go back to" in str(one["findings"]) for one in decided)

    wait_until(called, "a person is called")
    assert len(host.incidents()) == incidents
    assert host.settings.read_text() == damaged
    host.settings.write_text(before)
