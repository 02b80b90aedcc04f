"""The example with layered recovery, as it is shipped, from the alert to everybody who is told, on real components.

One story has short waits, since its alerts carry times; the other one, of months and quarters of an hour, a fast clock.
Only systemd is stood in for.
"""

import json
import os
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.everybody import People, reachable
from tests.e2e.ops_host import EXAMPLES, PYTHON, Host, Units, ending
from tests.e2e.telling import told
from tests.e2e.toy import webhook
from tests.fakes.pagerduty import ROUTING_KEY
from tests.servers import Postgres, free_port, postgres_server, wait_until

TOGETHER = 2
pytestmark = [pytest.mark.timeout(240), pytest.mark.needs("git")]


# -- the host -----------------------------------------------------------------------------------
class Platform(Host):
    """Configuration, a database with its schema, code and a unit."""

    server: Postgres | None = None

    def sql(self, *statements: str, database: str = "platform") -> Any:
        assert self.server is not None
        return self.server.sql(*statements, database=database, user="platform")

    @property
    def place(self) -> Path:
        return self.root / "srv/platform"

    @property
    def app(self) -> Path:
        return self.place / "app"

    @property
    def env(self) -> Path:
        return self.place / ".env"

    @property
    def head(self) -> str:
        return self.git(self.app, "rev-parse", "HEAD")

    def lay_out(self, port: int, people: People, server: Postgres) -> None:
        """The example's files in their places, its database, release v1, and the secrets."""
        root, self.server = str(self.root), server
        self.moves = {
            "?host=/run/postgresql": f"?host={server.socket}&port={server.port}",
            "host=/run/postgresql": f"host={server.socket} port={server.port}",
            "/srv/platform/.venv/bin/python": PYTHON,
            "http://127.0.0.1:8000": f"http://127.0.0.1:{port}",
            "PORT=8000": f"PORT={port}",
            "/etc/rollbackd": root,
            "/etc/default": f"{root}/default",
            "/srv": f"{root}/srv",
            "/var/log/platform": root,
            "[python3,": f"[{PYTHON},",
            "mail.example.com:587": people.server,
            "https://sms.example": people.base,
        }
        self.url = f"http://127.0.0.1:{port}/health"
        defaults = self.root / "default/platform"
        self.program = [PYTHON, str(self.app / "app.py"), str(self.place), str(defaults)]
        for name in ("app.py", "build.py", "release.json", ".gitignore"):
            self.moved(f"app/{name}", self.app / name)
        self.moved("checks/probe.py", self.place / "checks/probe.py")
        self.moved("config/env.example", self.env)
        self.moved("config/defaults", defaults)
        for name in (".limits/api/max", "docker-compose.yml"):
            self.moved(f"config/{name}", self.place / name)
        for name in ("alembic.ini", "migrations/env.py", "migrations/versions/orders.py"):
            self.moved(f"app/{name}", self.app / name)
        server.run(EXAMPLES / "layered-recovery/database.sql")
        self.migrate()
        self.git(self.app, "init", "-q", "-b", "main")
        self.commit(self.app, "v1")
        for name in ("alertmanager", "ci"):
            self.secret(name)
        self.hide("slack-webhook", people.base + people.slack.path)
        self.hide("pagerduty-key", ROUTING_KEY)
        self.hide("sms-token", "Bearer the gateway's")

    def hide(self, name: str, text: str) -> None:
        """A secret's file."""
        (self.root / name).write_text(text)
        (self.root / name).chmod(0o600)

    def migrate(self) -> None:
        """The first time, before there is a daemon."""
        (url,) = (line for line in self.env.read_text().splitlines() if line.startswith("DATABASE_URL="))
        name, _, value = url.partition("=")
        argv = [PYTHON, "-m", "alembic", "upgrade", "head"]
        done = subprocess.run(
            argv, cwd=self.app, env=os.environ | {name: value}, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        self.sql("INSERT INTO orders (net) VALUES (100), (200)")

    def build_and_restart(self) -> None:
        """What CI does after a checkout."""
        subprocess.run([PYTHON, "build.py"], cwd=self.app, check=True, timeout=30)
        self.restart()

    def log_in(self) -> None:
        """A session from before everything, that must stay valid."""
        argv = [PYTHON, str(self.place / "checks/probe.py"), "session", self.url.removesuffix("/health"), str(self.env)]
        done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30)
        self.hide("probe-session", done.stdout.strip())

    def release(self, tag: str, **changes: Any) -> str:
        """CI deploys a release; its commit."""
        path = self.app / "release.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "release": tag, **changes}))
        commit = self.commit(self.app, tag)
        self.build_and_restart()
        return commit

    def until_runs(self, tag: str) -> None:
        """Wait until the daemon has seen that this release runs."""

        def seen() -> bool:
            present = self.ask("GET", "services/platform")["present"]
            return bool(present) and present["releases"]["code"].split()[0] == tag

        wait_until(seen, f"{tag} is seen", 60)

    def until_changed(self, edit: Callable[[], object]) -> None:
        """Somebody edits the configuration, and the daemon has seen it."""
        before = self.present("platform")["config"]
        edit()
        wait_until(lambda: self.present("platform").get("config", before) != before, "the change is seen")

    def until_looked(self) -> None:
        """Wait until the daemon has looked at all layers; each quarter of a minute it writes down when."""
        since = time.time()

        def looked() -> bool:
            with closing(sqlite3.connect(f"file:{self.root}/journal.db?mode=ro", uri=True)) as journal:
                (at,) = journal.execute("SELECT seq FROM cursors WHERE name = 'look platform'").fetchone()
            return bool(at > since)

        wait_until(looked, "the layers are looked at", 60)

    def standing(self, rule: str) -> str:
        """What a rule says of it now."""
        rules = self.ask("GET", "services/platform")["rules"]
        return str(next(one["verdict"] for one in rules if rule in one.values()))

    def trouble(self, components: str, severity: str) -> None:
        """Alertmanager says what is affected, and how badly."""
        body = webhook("PlatformTrouble", "platform", datetime.now(UTC))
        body["alerts"][0]["labels"] |= {"components": components, "severity": severity}
        known = {one["id"] for one in self.incidents()}
        self.ask("POST", "alerts", body, token="the token alertmanager")
        self.ends_when_well(body, known, "the token alertmanager")


@contextmanager
def platform(
    root: Path, people: People, change: Callable[[dict[str, Any]], None], *launcher: str
) -> Iterator[Platform]:
    """Runs v1, which is good; `change` moves waits in the configuration."""
    with postgres_server() as server:
        host = Platform(root, example="layered-recovery")
        host.prepare()
        host.lay_out(free_port(), people, server)
        with served(host, people, change, *launcher):
            yield host


@contextmanager
def served(host: Platform, people: People, change: Callable[[dict[str, Any]], None], *launcher: str) -> Iterator[None]:
    """The platform, with the daemon beside it."""
    host.build_and_restart()
    host.log_in()
    units = Units(host.root / "units", {"platform": host.restart}, {"platform": host.halt})
    config = host.loaded()
    (service,) = config["services"]
    service["layers"]["process"] = units.layer("platform")
    service["checks"]["health"].pop("below")
    config["limits"] = {
        "cooldown": "0s",
        "per_service": {"rollbacks": 9, "per": "1h"},
        "fleet": {"rollbacks": 9, "per": "1h"},
    }
    for receiver in config["notify"]["receivers"]:
        if "email" in receiver:
            receiver["email"]["security"] = "none"
        if "pagerduty" in receiver:
            receiver["pagerduty"]["url"] = people.base + people.pager.path
    change(config)
    host.write(config)
    with ending(host, units):
        host.start(*launcher)
        wait_until(lambda: set(host.present("platform")) == {"config", "schema", "db", "code"}, "its layers are seen")
        assert "is good: marked by" in host.said("good", "platform")
        yield


# -- what is affected says what goes back ---------------------------------------------------------
def sooner(config: dict[str, Any]) -> None:
    """Seconds for minutes; and the build waits while there is a file. The API is asked seldom enough that a restart on a
    busy machine is no trouble of its own."""
    (service,) = config["services"]
    config["daemon"]["look_every"] = "300ms"
    config["rules"][-1]["when"]["every"] = "20s"
    config["targets"]["steps"]["git"] = "1s"
    service["layers"]["db"]["max_loss"] = "1h"
    service["verify"] |= {"settle": "200ms", "every": "1s", "deadline": "15s"}  # each round is six programs
    service["layers"]["code"]["then"].append([PYTHON, "-c", _SLOWLY])


_SLOWLY = "import os, time\nwhile os.path.exists('../../../slow'): time.sleep(0.05)"


@told
def test_what_is_affected_says_what_goes_back(root: Path) -> None:
    with reachable() as people, platform(root, people, sooner) as host:
        only_its_configuration_goes_back(host, people)
        one_plan_further_when_that_does_not_help(host, people)
        the_emergency_build_comes_first_when_it_is_critical(host, people)
        a_printed_plan_runs_as_shown_or_not_at_all(host)
        nothing_helps_and_everybody_hears(host, people)
        assert "Traceback" not in host.log


def only_its_configuration_goes_back(host: Platform, people: People) -> None:
    """A2, A6, A8, A11, A14: the key that signs sessions was changed; the file is back, and nothing else moved."""
    before, commit = host.env.read_text(), host.head
    (host.app / "notes.txt").write_text("not committed\n")
    assert "platform: healthy" in host.said("status", "platform", "--checks")
    host.until_changed(lambda: host.env.write_text(before.replace("SESSION_KEY=change-me", "SESSION_KEY=rotated")))
    host.restart()
    host.trouble("config", "high")
    host.until_recovered("platform-1")
    assert (host.env.read_text(), host.env.stat().st_mode & 0o777, host.head) == (before, 0o600, commit)
    assert (host.app / "notes.txt").exists()
    report = host.said("incidents", "platform-1")
    assert "P1, rule platform-trouble, plan config" in report
    assert "sessions bad" in report
    assert "to-something-long" not in report + people.said
    wait_until(lambda: len(people.texts) == 2, "both are sent as SMS")
    assert people.texts == ["P1: platform goes back, platform-1", "platform-1: platform is well again"]
    wait_until(lambda: any("recovered" in one for one in people.mailed("platform")), "the group is mailed")
    assert people.mailed("lead") == []
    assert people.paged == []


def one_plan_further_when_that_does_not_help(host: Platform, people: People) -> None:
    """A3, A9, A12, A13, A17: it was the code after all; what was not committed is kept, and a branch to mend it on."""
    good, defaults = host.head, host.root / "default/platform"
    host.until_changed(lambda: defaults.write_text(defaults.read_text().replace("WORKERS=4", "WORKERS=8")))
    bad = host.release("v2", digest="none")
    (host.app / ".gitignore").write_text("build.json\n*.tmp\n")
    host.until_runs("v2")
    slow = host.root / "slow"
    slow.touch()
    host.trouble("config", "high")
    host.until_opened("platform-2")
    wait_until(lambda: "now P0" in people.said, "the plan for the configuration did not help")
    wait_until(lambda: "its target is 1s" in people.said, "a slow step is told")
    slow.unlink()
    host.until_recovered("platform-2")
    report = host.said("incidents", "platform-2")
    assert "plan config ended ineffective; the next one runs" in report
    checks_were_asked_in_order(host, "platform-2")
    steps_took_no_longer_than_their_targets(host, "platform-1", "platform-2")
    assert host.head == good
    assert "WORKERS=4" in defaults.read_text()
    assert host.git(host.app, "rev-parse", "emergency/platform-2") == bad
    saved = host.git(host.app, "for-each-ref", "--format=%(refname)", "refs/rollbackd").split()
    assert any("*.tmp" in host.git(host.app, "show", f"{ref}:.gitignore") for ref in saved)
    assert "ERROR /login" in people.said
    wait_until(lambda: any("second rollback" in one for one in people.mailed("lead")), "the next line hears at once")
    wait_until(lambda: ("resolve", "platform-2") in people.paged, "the page is resolved")
    assert people.paged[0] == ("trigger", "platform-2")


def checks_were_asked_in_order(host: Platform, incident: str) -> None:
    """A9: health, what it rests on, the database and its rows, the API, login, sessions, end to end, and the log beside them."""
    order = ["health", "services", "database", "orders", "api", "login", "sessions", "journey", "log"]
    rounds = [one["fact"]["results"] for one in host.records(incident) if one["kind"] == "Round"]
    asked = [[result["name"] for result in results] for results in rounds]
    assert asked
    assert [names[: len(order)] for names in asked] == [order] * len(asked)
    lines = host.said("incidents", incident).splitlines()
    assert any("verification bad" in line and "login bad" in line for line in lines), "what failed is shown"


def steps_took_no_longer_than_their_targets(host: Platform, *incidents: str) -> None:
    """A13: a configuration in one minute, a checkout in two, all of it in ten; measured in the journal."""
    targets = {"config": timedelta(minutes=1), "code": timedelta(minutes=2)}
    for incident in incidents:
        began: dict[str, datetime] = {}
        for one in host.records(incident):
            at, layer = datetime.fromisoformat(one["at"]), one["fact"].get("layer", "")
            if one["kind"] == "ApplyStarted":
                began.setdefault(layer, at)
            elif one["kind"] == "Applied" and layer in targets:
                assert at - began[layer] <= targets[layer], f"{layer} of {incident}"
            elif one["kind"] == "Closed":
                assert at - min(began.values()) <= timedelta(minutes=10), incident


def the_emergency_build_comes_first_when_it_is_critical(host: Platform, people: People) -> None:
    """A7, A8: what CI keeps prepared is put in place; that is no state to go back to later."""
    host.git(host.app, "checkout", "-q", "-b", "hotfix", "v1")
    ready = host.release("v1.1")
    host.git(host.app, "tag", "hotfix-ready")
    host.git(host.app, "checkout", "-q", "-f", "main")
    host.release("v3")
    host.until_runs("v3")
    host.trouble("api,config", "critical")
    host.until_recovered("platform-3")
    assert host.head == ready
    assert "P0, rule platform-critical, plan hotfix" in host.said("incidents", "platform-3")
    wait_until(lambda: ("resolve", "platform-3") in people.paged, "the page is resolved")
    assert not host.good("platform")


def a_printed_plan_runs_as_shown_or_not_at_all(host: Platform) -> None:
    """A8: refused when the world moved, and with what moved."""
    host.git(host.app, "checkout", "-q", "-f", "main")
    host.release("v4")
    host.until_runs("v4")
    shown = json.loads(host.said("plan", "platform", "--plan", "component", "--json"))
    assert [step["layer"] for step in shown["steps"]] == ["code", "process"]
    host.release("v5")
    host.until_runs("v5")
    refused = host.command("rollback", "platform", "--plan-id", shown["id"], "--yes")
    assert refused.returncode == 1
    assert "code" in refused.stderr
    shown = json.loads(host.said("plan", "platform", "--plan", "component", "--json"))
    assert "recovered" in host.said("rollback", "platform", "--plan-id", shown["id"], "--yes")
    assert host.head == host.git(host.app, "rev-parse", "v1")


def nothing_helps_and_everybody_hears(host: Platform, people: People) -> None:
    """A1, A8, A16, A17: the server lets nobody in, so both plans fail, and all lines are told; the record has all of it.

    Whatever the emergency build does not help goes back whole, with the data from before the change.
    """
    host.said("snapshot", "take", "platform", "db")
    host.git(host.app, "checkout", "-q", "-f", "main")
    host.release("v6")
    host.until_runs("v6")
    assert host.server is not None
    host.server.sql("ALTER ROLE platform NOLOGIN")
    host.ask("POST", "alerts", webhook("DataAtRisk", "platform", datetime.now(UTC)), token="the token alertmanager")
    host.until_opened("platform-5")
    assert host.until_closed("platform-5", 60)["outcome"] == "ineffective"
    wait_until(lambda: bool(people.mailed("head")), "the last line hears")
    asked = host.command("status", "platform", "--checks")
    assert (asked.returncode, "database.connection is" in asked.stdout) == (1, True)
    assert "P0: platform is still sick, platform-5 did not help" in people.texts
    assert ("trigger", "platform-5") in people.paged
    report = host.said("incidents", "platform-5")
    for text in (
        "P0, rule data-at-risk",
        "plan hotfix ended ineffective",
        "applied code",
        "applied db",
        "database bad",
        "did not help",
    ):
        assert text in report, report


# -- the database -----------------------------------------------------------------------------------
def by_hand(config: dict[str, Any]) -> None:
    """The only copies of the database are those that the story takes."""
    sooner(config)
    config["services"][0]["verify"]["deadline"] = "30s"  # a busy machine takes seconds for what asks the database
    config["schedules"] = [one for one in config["schedules"] if one.get("snapshot") != "platform/db"]


RUSH = """
import sqlalchemy as sa
from alembic import op

revision = "rush"
down_revision = "orders"


def upgrade():
    op.add_column("orders", sa.Column("rush", sa.Boolean, nullable=False, server_default=sa.false()))


def downgrade():
    op.drop_column("orders", "rush")
"""


@told
def test_a_database_goes_back_in_its_schema_or_in_its_data(root: Path) -> None:
    with reachable() as people, platform(root, people, by_hand) as host:
        a_migration_goes_back_step_by_step(host)
        a_damaged_copy_gives_way_to_an_older_one(host)
        assert "Traceback" not in host.log


def a_migration_goes_back_step_by_step(host: Platform) -> None:
    """A5, A8: the upgrade takes a copy itself; the way back is known before, asked about, and loses no row."""
    good = host.head
    (host.app / "migrations/versions/rush.py").write_text(RUSH)
    path = host.app / "release.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "release": "v2", "digest": "none"}))
    host.commit(host.app, "v2")
    done = json.loads(host.said("layer", "upgrade", "platform", "schema", "--yes", "--json"))
    assert (done["before"], done["after"]) == ("orders", "rush")
    copies = host.root / "srv/copies/platform/db"
    assert [path.name for path in copies.iterdir()] == [done["copy"]], "one that is whole, from before it"
    assert "rush" not in (copies / done["copy"] / "schema.sql").read_text()
    host.build_and_restart()
    host.until_runs("v2")
    host.sql("INSERT INTO orders (net, rush) VALUES (700, true)")
    plan = json.loads(host.command("plan", "platform", "--plan", "migration", "--json").stdout)
    assert [step["layer"] for step in plan["steps"]] == ["schema", "code"]
    risks = " ".join(plan["steps"][0]["risks"])
    assert "rush drops orders.rush" in risks
    assert "column orders.rush goes, with" in risks
    assert f"--to db={done['copy']}` brings back the data" in risks
    host.trouble("database", "high")
    host.until_opened("platform-1")
    assert host.sql("SELECT version_num FROM alembic_version") == [("rush",)], "nothing is touched while it asks"
    host.approve("platform-1")
    host.until_recovered("platform-1")
    assert host.head == good
    assert host.present("platform")["db"] == "original", "its rows stayed where they were"
    assert (700,) in host.sql("SELECT net FROM orders")
    said = host.said("incidents", "platform-1")
    order = ("entered process", "applied schema", "applied code", "left process", "recovered: ")
    assert sorted(order, key=said.index) == list(order), said


def a_damaged_copy_gives_way_to_an_older_one(host: Platform) -> None:
    """A4, A8, A15: a script ruined the orders; the newest copy cannot be restored, the one before it can."""
    for name in ("older", "newest"):
        assert name in host.said("snapshot", "take", "platform", "db", "--name", name)
    before = host.sql("SELECT id, net FROM orders ORDER BY 1")
    host.until_looked()  # a copy is gone back to when the good state was still seen after it
    ruined = max((host.root / "srv/copies/platform/db/newest/data").glob("*.dat.gz"))
    ruined.write_bytes(b"")
    host.git(host.app, "checkout", "-q", "-f", "main")
    host.release("v3", digest="sha256")
    host.sql("UPDATE orders SET net = -net")
    host.until_runs("v3")
    host.trouble("database", "high")
    host.until_opened("platform-2")
    host.approve("platform-2")
    host.until_recovered("platform-2")
    said = host.said("incidents", "platform-2")
    assert "plan migration ended ineffective; the next one runs" in said
    assert "copy newest could not be restored" in said
    assert "so the next older one was taken" in said
    assert host.sql("SELECT id, net FROM orders ORDER BY 1")[: len(before)] == before
    old = host.sql("SELECT id, -net FROM orders ORDER BY 1", database="platform_rollbackd_old_original")
    assert old[: len(before)] == before, "what was there is kept"
    verified = host.command("snapshot", "verify", "platform", "db")
    assert (verified.returncode, "newest is damaged" in verified.stdout, "older whole" in verified.stdout) == (
        1,
        True,
        True,
    )
    (layer,) = json.loads(host.command("snapshot", "list", "platform", "db", "--json").stdout)["layers"]
    listed = {one["name"]: one["restorable"] for one in layer["snapshots"]}
    assert (listed["newest"], listed["older"]) == (False, True)


# -- checkpoints, drills, hotfixes ------------------------------------------------------------------
def often(config: dict[str, Any]) -> None:
    """What changes is seen at once."""
    config["daemon"]["look_every"] = "300ms"


def faster(config: dict[str, Any]) -> None:
    """A minute is a second, so what is limited to seconds gets minutes; half a year is over soon."""
    (service,) = config["services"]
    config["rules"][-1]["when"]["every"] = "2m"
    config["daemon"]["look_every"] = "30s"
    for check in service["checks"].values():
        check["timeout"] = "5m"
    for layer in ("schema", "db"):
        service["layers"][layer]["timeout"] = "10h"
    service["layers"]["config"]["timeout"] = "5m"
    service["verify"] |= {"deadline": "6m", "watch": "1m"}
    soon = datetime.now(UTC) + timedelta(minutes=10)
    half_yearly = next(one for one in config["schedules"] if one.get("execute"))
    half_yearly["cron"] = f"{soon.minute} {soon.hour} {soon.day} {soon.month} *"


@told
def test_checkpoints_drills_and_hotfixes(root: Path) -> None:
    with reachable() as people, platform(root, people, often) as host:
        a_drill_on_the_calendar_goes_there_and_returns(host)
        a_hotfix_that_nobody_confirms_goes_back(host, people)
        what_was_configured_is_compared_restored_and_carried_elsewhere(host)
        a_person_goes_back_to_a_checkpoint(host)
        assert "Traceback" not in host.log


def a_drill_on_the_calendar_goes_there_and_returns(host: Platform) -> None:
    """A4, A10: the half-yearly one, for real; a rollback from v2, and back to it. Time flies once v2 was seen.

    What is good is kept before, its data too.
    """
    wait_until(lambda: "checkpoint-code-good-" in host.git(host.app, "tag"), "what is good is kept")
    copies = host.root / "srv/copies/platform/db"
    wait_until(lambda: bool([*copies.glob("snapshot-good-*/manifest.json")]), "its data is kept", 60)
    bad = host.release("v2")
    host.until_runs("v2")
    host.stop()
    config = yaml.safe_load((host.root / "config.yaml").read_text())
    faster(config)
    (host.root / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    host.start("--speed", "60")

    def held() -> list[dict[str, Any]]:
        """Those that were executed and have ended."""
        found = host.ask("GET", "drills?service=platform")["drills"]
        return [one for one in found if one["incident"] and one["result"] != "running"]

    wait_until(lambda: bool(held()), "it is held", 90)
    (one,) = held()
    assert (one["result"], one["plans"], one["actor"]) == ("ready", ["component"], "daemon"), one
    assert [one["outcome"] for one in host.incidents()] == ["recovered", "recovered"]
    assert host.head == bad


def a_hotfix_that_nobody_confirms_goes_back(host: Platform, people: People) -> None:
    """A7: a quarter of an hour for P0, with the API asked meanwhile."""
    host.release("v3")  # first, and announced right after: to build it is half of the quarter on this clock
    host.said("changed", "platform", "--kind", "hotfix", "--priority", "P0", "--key", "job-7")
    host.until_runs("v3")
    (announced,) = (one for one in host.ask("GET", "changes?service=platform")["changes"] if one["id"] == "job-7")
    confirm_by = datetime.fromisoformat(announced["confirm_by"])
    length = confirm_by - datetime.fromisoformat(announced["at"])
    assert abs(length - timedelta(minutes=15)) < timedelta(minutes=1), "time flies between the two"
    assert "job-7" in host.said("status", "platform")
    wait_until(lambda: host.standing("api-failing") == "good", "the API is asked meanwhile")
    one_command_each_for_snapshots(host)
    wait_until(lambda: bool(host.incidents()[0]["rule"] == "unconfirmed"), "nobody confirms it", 120)
    incident = host.incidents()[0]["id"]
    opened = next(one["fact"] for one in host.records(incident) if one["kind"] == "Opened")
    onset = datetime.fromisoformat(opened["decision"]["trigger"]["onset"])
    assert onset == confirm_by, "it counts from the end of the quarter"
    late = datetime.fromisoformat(host.incidents()[0]["opened"]) - confirm_by
    assert timedelta() <= late <= timedelta(minutes=5), "which are five seconds of the machine's"
    host.until_recovered(incident)
    assert host.head == host.git(host.app, "rev-parse", "v1")
    assert "hotfix announced by" in host.said("incidents", incident)

    def paged() -> list[str]:
        return [action for action, thread in people.paged if thread == incident]

    # On this clock it may be over before anybody was paged; then nobody is.
    wait_until(lambda: paged() in ([], ["trigger", "resolve"]), "P0 pages, and is resolved")


def one_command_each_for_snapshots(host: Platform) -> None:
    """A3, A14: everything is kept, checkpoints by a name of their own, and all of it is read."""
    assert len(host.said("snapshot", "take", "--all").splitlines()) == 3
    host.said("snapshot", "take", "platform", "code", "--name", "checkpoint-beta-login-20260305T020000Z")
    assert "checkpoint-beta-login-20260305T020000Z" in host.said("snapshot", "list", "platform", "code", "--json")
    assert "whole" in host.said("snapshot", "verify", "--all")


def what_was_configured_is_compared_restored_and_carried_elsewhere(host: Platform) -> None:
    """A6, A14: values that are secret are never shown; variables alone; a file that is not accepted stays out."""
    layer, defaults = ("platform", "config"), host.root / "default/platform"
    limit = host.place / ".limits/api/max"
    host.said("snapshot", "take", *layer, "--name", "calm")
    before = host.env.read_text()
    host.env.write_text(before.replace("SESSION_KEY=change-me", "SESSION_KEY=rotated"))
    limit.write_text("9\n")
    defaults.write_text(defaults.read_text().replace("WORKERS=4", "WORKERS=8"))
    shown = host.said("snapshot", "diff", *layer, "calm")
    assert "SESSION_KEY" in shown
    assert ".limits/api/max" in shown
    assert "to-something-long" not in shown
    host.said("snapshot", "restore", *layer, "calm", "--only", "variables", "--yes")
    assert ("WORKERS=4" in defaults.read_text(), limit.read_text()) == (True, "9\n")
    file = host.root / "calm.tar.gz"
    host.said("snapshot", "export", *layer, "calm", str(file))
    host.said("snapshot", "import", *layer, str(file))
    limit.write_text("many\n")
    host.said("snapshot", "take", *layer, "--name", "wrong")
    limit.write_text("9\n")
    refused = host.command("snapshot", "restore", *layer, "wrong", "--yes")
    assert (refused.returncode, limit.read_text()) == (1, "9\n"), refused.stdout
    assert ".limits/api/max" in refused.stderr
    host.said("snapshot", "restore", *layer, "--yes")
    assert (host.env.read_text(), limit.read_text()) == (before, "50\n")
    assert host.env.stat().st_mode & 0o777 == 0o600


def a_person_goes_back_to_a_checkpoint(host: Platform) -> None:
    """A3: by the tag's name; and the branch for emergencies is where it was left."""
    host.git(host.app, "checkout", "-q", "-f", "main")
    bad = host.release("v4")
    host.until_runs("v4")
    to = host.git(host.app, "tag", "--list", "checkpoint-code-good-*").splitlines()[0]
    said = host.said("rollback", "platform", "--to", f"code={to}", "--plan", "component", "--yes", "--reason", "slow")
    assert "recovered" in said
    assert host.head == host.git(host.app, "rev-parse", "v1")
    assert host.git(host.app, "rev-parse", f"emergency/{host.incidents()[0]['id']}") == bad
