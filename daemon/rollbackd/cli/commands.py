"""All commands, in the order in which `--help` lists them."""

from typing import Annotated

import typer

from rollbackd import __version__
from rollbackd.cli import (
    alert_trial_command,
    backtest_command,
    change_commands,
    discover_command,
    drill_command,
    event_command,
    init_command,
    install_command,
    journal_commands,
    layer_command,
    live_report,
    local_commands,
    order_commands,
    query_commands,
    report_commands,
    snapshot_commands,
)
from rollbackd.cli.command_frame import AsJson, ConfigFile, Session, SocketFile, command

app = typer.Typer(
    name="rollbackd",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"rollbackd {__version__}")
        raise typer.Exit


@app.callback()
def general(
    ctx: typer.Context,
    as_json: AsJson = False,
    config: ConfigFile = None,
    socket: SocketFile = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Takes a sick service back to its last good state, checks that it got well, and tells people.

    Stop it at any moment, whatever else is down: touch /var/lib/rollbackd/signals/HOLD

    Exit codes: 0 yes or done; 1 no, not recovered, errors found; 2 wrong usage; 3 the daemon cannot be reached.
    """
    del version
    ctx.obj = Session(as_json, config, socket)


_COMMANDS = (
    local_commands.run, local_commands.check, local_commands.schema,
    install_command.install, init_command.init, install_command.uninstall,
    discover_command.discover,
    query_commands.status, query_commands.incidents, query_commands.decisions, query_commands.plan,
    query_commands.members, query_commands.login,
    order_commands.rollback, order_commands.approve, order_commands.deny, order_commands.abort, order_commands.ack,
    order_commands.escalate, order_commands.hold, order_commands.mending, order_commands.resume,
    order_commands.drain,
    change_commands.changed, change_commands.confirm,
    order_commands.good, order_commands.quarantine, event_command.event, local_commands.audit,
    drill_command.drill, backtest_command.backtest,
)  # fmt: skip
for _run in _COMMANDS:
    command(app, _run.__name__)(_run)
command(app, "test-alert")(alert_trial_command.try_alert)
command(app, "events")(report_commands.events)
app.add_typer(journal_commands.app)
app.add_typer(layer_command.app)
app.add_typer(live_report.app)
app.add_typer(report_commands.app)
app.add_typer(snapshot_commands.app)
