"""All commands, in the order in which `--help` lists them."""

from typing import Annotated

import typer

from rollbackd import __version__
from rollbackd.cli import answer, change, drill, event, layer, local, look, order, snapshot
from rollbackd.cli.frame import AsJson, ConfigFile, Session, SocketFile, command

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


for _run in (
    local.run, local.check, local.schema, look.status, look.incidents, look.decisions, look.plan, order.rollback,
    answer.approve, answer.deny, order.abort, order.ack, order.hold, order.resume, change.changed, change.confirm,
    order.good, order.quarantine, event.event, local.audit, layer.layer, drill.drill,
):  # fmt: skip
    command(app, _run.__name__)(_run)
app.add_typer(snapshot.app)
