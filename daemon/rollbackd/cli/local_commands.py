"""Commands that work on this host's files, with or without a daemon."""

from pathlib import Path
from typing import Annotated

import typer

from rollbackd.cli import live_report
from rollbackd.cli.command_frame import NO, Session, StopError, complain
from rollbackd.cli.journal_commands import journal_access
from rollbackd.cli.terminal_text import as_json, safe


def run(session: Session) -> int:
    """Be the daemon, until SIGTERM."""
    from rollbackd.app import run as run_daemon

    return run_daemon(session.config_path)


def check(
    session: Session,
    file: Annotated[Path | None, typer.Argument(readable=False, help="Else the configuration in use.")] = None,
    without_secrets: Annotated[
        bool,
        typer.Option(
            "--without-secrets", help="Do not look for secrets and certificates, as on another machine or in a shell."
        ),
    ] = False,
    live: Annotated[
        bool, typer.Option("--live", help="Ask every query, Alertmanager, each layer and each receiver.")
    ] = False,
    no_messages: Annotated[
        bool, typer.Option("--no-messages", help="With --live: send the receivers no tests.")
    ] = False,
) -> int | None:
    """Check the configuration; every error at once.

    Without errors: a summary, and the drop-in that the systemd unit needs for what the layers write to. With --live
    the daemon asks all that its configuration names; this command itself does so for a FILE, or without a daemon.
    """
    if live and file is None and (asked := live_report.by_daemon(session, messages=not no_messages)) is not None:
        return asked
    from rollbackd.cli import check_report
    from rollbackd.config.load import ConfigErrors, load

    path = file or session.config_path
    try:
        loaded = load(path, look_for=None) if without_secrets else load(path)
    except ConfigErrors as error:
        faults = [str(fault) for fault in error.faults]
        session.show({"valid": False, "errors": faults}, lambda: print("\n".join(map(safe, faults))))
        if not without_secrets and _loads(path):
            complain("nothing but secrets is missing here; what only the service is given: --without-secrets")
        return NO
    if live:
        return live_report.here(session, loaded, messages=not no_messages)
    summary = check_report.summary(loaded)
    session.show(summary, lambda: check_report.show(summary))
    return None


def _loads(path: Path) -> bool:
    from rollbackd.config.load import ConfigErrors, load

    try:
        load(path, look_for=None)
    except ConfigErrors:
        return False
    return True


def schema(
    session: Session,
    webhook: Annotated[bool, typer.Option("--webhook", help="Print that of what webhooks are sent.")] = False,
    template: Annotated[
        bool, typer.Option("--template", help="Print that of what templates of messages are offered.")
    ] = False,
) -> None:
    """Print the configuration's JSON Schema, for editors."""
    from rollbackd.plugins import PluginError

    del session
    if webhook:
        from rollbackd.notify.receivers.webhook import schema as of_messages

        print(as_json(of_messages()))
        return
    if template:
        from rollbackd.config.message_templates import schema as of_templates

        print(as_json(of_templates()))
        return
    from rollbackd.config.schema import schema as whole

    try:
        print(as_json(whole()))
    except PluginError as error:
        raise StopError(str(error)) from error


def audit(
    session: Session,
    journal: Annotated[
        str | None, typer.Option("--journal", metavar="URL", help="Else daemon.journal of the configuration.")
    ] = None,
) -> int | None:
    """Verify the journal; exit code 1 when something does not fit."""
    from rollbackd.cli.locations import journal_url
    from rollbackd.journal import JournalDamaged, JournalRefused, JournalUnavailable
    from rollbackd.journal.offline import audit_journal
    from rollbackd.state.checkpoint import Checkpoint

    own = journal_url(session.config_path)
    url = journal or own
    access = journal_access(session.config_path, url)
    try:
        report = audit_journal(url, access=access)
        broken = (*report.broken, *(Checkpoint(url, access).misfits() if url == own else ()))
    except (JournalDamaged, JournalRefused, JournalUnavailable) as error:
        raise StopError(str(error)) from error
    found = {"streams": report.streams, "facts": report.facts, "broken": list(broken)}
    session.show(found, lambda: _show_audit(report.streams, report.facts, broken))
    return NO if broken else None


def _show_audit(streams: int, facts: int, broken: tuple[str, ...]) -> None:
    print(f"{facts} facts in {streams} streams: {'all fit' if not broken else f'{len(broken)} do not fit'}")
    for sentence in broken:
        print(f"  {safe(sentence)}")
