"""`rollbackd init`: from nothing to a configuration that works on this host, and what it says when it is asked."""

import asyncio
import secrets
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rollbackd.cli.command_frame import Session, StopError, UsageError, complain, is_asked
from rollbackd.cli.install_command import Force, Root, Yes, carry_out
from rollbackd.cli.terminal_text import safe

if TYPE_CHECKING:  # heavy imports
    from rollbackd.config.models import Config
    from rollbackd.setup.first_config import FirstAnswers, FirstService
    from rollbackd.setup.steps import PutFile, SetupStep, TargetHost

_SLASH = Path("/")
_QUICK = timedelta(seconds=30)


def init(
    session: Session,
    service: Annotated[str, typer.Option("--service", help="Its name; else of the repositories that are found.")] = "",
    repo: Annotated[Path | None, typer.Option("--repo", help="The work tree of its code.")] = None,
    unit: Annotated[list[str] | None, typer.Option("--unit", help="What is restarted afterwards; repeatable.")] = None,
    health: Annotated[str, typer.Option("--health", metavar="URL", help="Answers 200 while it is well.")] = "",
    match: Annotated[
        str, typer.Option("--match", metavar="LABELS", help="Its labels in alerts and series; else service=NAME.")
    ] = "",
    prometheus: Annotated[
        str, typer.Option("--prometheus", metavar="URL", help="Else what answers on 127.0.0.1:9090.")
    ] = "",
    alertmanager: Annotated[
        str, typer.Option("--alertmanager", metavar="URL", help="Else what answers on 127.0.0.1:9093.")
    ] = "",
    alerts: Annotated[
        str, typer.Option("--alerts", metavar="MATCHERS", help='Which alerts roll back; else severity="critical".')
    ] = "",
    mode: Annotated[str, typer.Option("--mode", help="shadow, which touches nothing, or act.")] = "",
    slack_webhook: Annotated[
        Path | None, typer.Option("--slack-webhook", metavar="FILE", help="A file with the webhook's URL, to be told.")
    ] = None,
    no_start: Annotated[bool, typer.Option("--no-start", help="Write all of it, and start nothing.")] = False,
    yes: Yes = False,
    force: Force = False,
    root: Root = _SLASH,
) -> int | None:
    """Write a first configuration for this host, and try it.

    With its secrets, and all that the unit needs for it. Finds Prometheus, Alertmanager, repositories and their units,
    asks what it cannot know, and shows each file before it is written. What is there stays, unless --force is given.
    After `rollbackd install`, as root.
    """
    from rollbackd.setup.first_config import text_of
    from rollbackd.setup.steps import TargetHost

    host = TargetHost(root.absolute())
    asking = _Asking(is_asked(yes=yes))
    path = session.config_path.absolute()
    if host.at(path).exists() and not force:
        complain(f"{path} is there already, and stays; --force begins anew, and keeps the old one as {path.name}.old")
        answers, files = None, []
        config, credentials = _read(host.at(path))
    else:
        chosen = _services(asking, host, service, repo, unit or [], health, match)
        answers = asyncio.run(
            _answers(asking, chosen, prometheus, alertmanager, alerts, mode, slack=slack_webhook is not None)
        )
        text = text_of(answers)
        files = list(_files(host, path, text, slack_webhook))
        config, credentials = _read_text(text)
    steps, lacking = asyncio.run(_unit_steps(host, config, credentials, files, start=not no_start))
    if code := carry_out(host, steps, yes=yes, force=force):
        return code
    for sentence in lacking:
        print(f"left to do: {safe(sentence)}")
    if answers is not None:
        _parts(config, answers)
    return _tried(session, config) if host.runs and not no_start else None


# -- what is asked ------------------------------------------------------------------------------
class _Asking:
    """Questions on a terminal, with an answer that Enter stands for; without one that answer counts."""

    def __init__(self, asked: bool) -> None:
        self.asked = asked

    def __call__(self, question: str, given: str, otherwise: str) -> str:
        """What was `given` on the command line, else what is answered."""
        if given or not self.asked:
            return given or otherwise
        print(f"{question} [{safe(otherwise) or 'none'}] ", end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip() or otherwise


def _services(
    asking: _Asking, host: "TargetHost", name: str, repo: Path | None, units: Sequence[str], health: str, match: str
) -> "list[FirstService]":
    """Those that are named, else those of the repositories that are found."""
    from rollbackd.setup.found import Repository, repositories, units_of

    if name or repo:
        if repo is None:
            raise UsageError("name the work tree of its code, too: --repo DIR")
        found = [Repository(repo, tuple(units) or units_of(host, repo))]
    else:
        found = repositories(host)
        if units or health or match:
            raise UsageError("--unit, --health and --match are of one service: name it by --service and --repo")
    made = [made for each in found if (made := _service(asking, each, name, health, match)) is not None]
    if not made:
        looked = ", ".join(str(each.path) for each in found) or "no repository is in /srv, /opt or /var/www"
        raise UsageError(f"there is no service to watch ({looked}); name one: --service NAME --repo DIR --health URL")
    return made


def _service(asking: _Asking, found: Any, name: str, health: str, match: str) -> "FirstService | None":
    from rollbackd.config.alert_cases import labels_of
    from rollbackd.setup.first_config import FirstService

    ran_by = f", run by {', '.join(found.units)}" if found.units else ""
    name = asking(f"{found.path}{ran_by}: the service's name, or - to leave it out", name, found.name)
    if name == "-":
        return None
    health = asking("  a URL that answers 200 while it is well", health, "")
    if not health and not found.units:
        complain(f"{found.path} is left out: nothing says how it is known to be well; give --health URL, or --unit")
        return None
    written = asking("  its labels in alerts and series", match, f"service={name}")
    try:
        labels = labels_of(written)
    except ValueError as error:
        raise UsageError(f"--match: {error}") from error
    return FirstService(name, labels, found.path, found.units, health)


async def _answers(
    asking: _Asking,
    chosen: "Sequence[FirstService]",
    prometheus: str,
    alertmanager: str,
    alerts: str,
    mode: str,
    *,
    slack: bool,
) -> "FirstAnswers":
    from rollbackd.setup import found
    from rollbackd.setup.first_config import ALERTS, FirstAnswers

    here = found.PROMETHEUS if await found.is_prometheus(found.PROMETHEUS) else ""
    prometheus = asking("Prometheus", prometheus, here)
    here = found.ALERTMANAGER if await found.is_alertmanager(found.ALERTMANAGER) else ""
    alertmanager = asking("Alertmanager", alertmanager, here)
    alerts = asking("which alerts roll back", alerts, ALERTS)
    mode = asking("shadow, which touches nothing, or act", mode, "shadow")
    made = FirstAnswers(chosen, mode, prometheus, alertmanager, alerts, slack=slack)
    has_metric = bool(prometheus) and await found.has_series(prometheus, "http_requests_total", made.labels)
    return replace(made, pack=has_metric)


# -- what is written ----------------------------------------------------------------------------
def _files(host: "TargetHost", path: Path, text: str, slack: Path | None) -> "Iterator[PutFile]":
    """The configuration, and the secrets that it names: each also for who has to show it."""
    from rollbackd.setup.first_config import ALERTMANAGER_TOKEN, METRICS_TOKEN, SLACK
    from rollbackd.setup.service_files import CREDENTIALS, USER
    from rollbackd.setup.steps import PutFile

    yield PutFile(path, text, "the configuration", 0o640, USER, edited=True)
    for name, who in ((ALERTMANAGER_TOKEN, "Alertmanager"), (METRICS_TOKEN, "Prometheus")):
        if not host.at(path.parent / name).exists():
            token = secrets.token_urlsafe(32)
            yield PutFile(path.parent / name, token, f"the token that {who} shows", 0o600)
            yield PutFile(CREDENTIALS / name, token, "the same, for the service", 0o600, anew=True)
    if slack is not None:
        try:
            address = slack.read_text()
        except OSError as error:
            raise UsageError(f"--slack-webhook: {slack}: {(error.strerror or '').lower()}") from error
        yield PutFile(CREDENTIALS / SLACK, address, "the webhook of Slack", 0o600, anew=True)


def _read_text(text: str) -> "tuple[Config, frozenset[str]]":
    """What the text means. :raises StopError: what was answered makes no configuration; each fault."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as directory:
        file = Path(directory) / "config.yaml"
        file.write_text(text)
        return _read(file)


def _read(file: Path) -> "tuple[Config, frozenset[str]]":
    """A configuration, and the names of its credentials. :raises StopError: each fault, with its line."""
    from rollbackd.config.load import ConfigErrors
    from rollbackd.setup.service_files import read

    try:
        return read(file)
    except ConfigErrors as error:
        lines = ["", *file.read_text().splitlines(), ""]
        said = [f"{fault.text}: {lines[min(fault.line, len(lines) - 1)].strip()}" for fault in error.faults]
        raise StopError("\n".join(said)) from error


async def _unit_steps(
    host: "TargetHost", config: "Config", credentials: "Collection[str]", files: "Sequence[PutFile]", *, start: bool
) -> "tuple[list[SetupStep], Sequence[str]]":
    """What the unit needs for the configuration, and its start; and what is left to people."""
    from rollbackd.setup.service_files import CREDENTIALS, can_encrypt, needed, reload_step
    from rollbackd.setup.steps import RunProgram, changes
    from rollbackd.system.spawner import Spawner

    spawner = Spawner()
    coming = {file.path.name for file in files if file.path.parent == CREDENTIALS}
    found = needed(host, config, credentials, encrypts=await can_encrypt(host, spawner), coming=coming)
    steps: list[SetupStep] = [*files, *found.steps]
    steps.append(reload_step(host, steps))
    if start and host.runs:
        active = await spawner.run(["systemctl", "is-active", "--quiet", "rollbackd"], timeout=_QUICK)
        anew = changes(steps, host) or not active.ok
        steps.append(RunProgram(("systemctl", "enable", "rollbackd"), "starts it at each boot", anew))
        steps.append(RunProgram(("systemctl", "restart", "rollbackd"), "starts it with all of this", anew))
    return steps, found.lacking


# -- what is said in the end --------------------------------------------------------------------
def _parts(config: "Config", answers: "FirstAnswers") -> None:
    from rollbackd.config.models import listening
    from rollbackd.setup.first_config import ALERTMANAGER_TOKEN, METRICS_TOKEN, alertmanager_part, prometheus_part

    _, port = listening(config.daemon.listen)
    for name, file, text in (
        (ALERTMANAGER_TOKEN, "alertmanager.yml", alertmanager_part(answers, port)),
        (METRICS_TOKEN, "prometheus.yml", prometheus_part(port)),
    ):
        print(f"\nleft to do: this into {file}; its program must be able to read the token, as user prometheus with")
        print(f"  install -o prometheus -m 400 /etc/rollbackd/{name} /etc/prometheus/rollbackd-{name}\n")
        print(text, end="")


def _tried(session: Session, config: "Config") -> int | None:
    """The daemon asks all that its configuration names, and whether each service could go back now."""
    from rollbackd.cli.drill_command import drill
    from rollbackd.cli.live_report import by_daemon

    print()
    code = by_daemon(session, messages=False)
    for service in config.services:
        print()
        drill(session, service.name)
    print("\nwhat runs now can be gone back to once it ran for its `bake` without trouble: rollbackd status")
    return code
