"""Layers by themselves: this host's own, served to an ops host, and one of the daemon's that goes forward."""

from typing import Annotated

import typer

from rollbackd.cli.command_frame import NO, Session, StopError, UsageError, alone, command, is_sure
from rollbackd.cli.snapshot_commands import PATIENCE, goes_on
from rollbackd.cli.terminal_text import safe, table

app = typer.Typer(name="layer", rich_markup_mode=None)


def served(
    session: Session,
    stdio: Annotated[bool, typer.Option("--stdio", help="Answer an ops host, on standard input and output.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Show what is served.")] = False,
) -> None:
    """Serve this host's layers, or take one of a service forward.

    Served to an ops host are those of --config, else of /etc/rollbackd/layers.yaml.

    Made for a forced command: command="rollbackd layer --stdio",restrict in authorized_keys.
    """
    from rollbackd.remote.server import LayerServer, serve_stdio
    from rollbackd.remote.settings import PATH, ServedErrors, load

    if stdio == listed:
        raise UsageError("what to do with the layers? rollbackd layer --stdio, or rollbackd layer --list")
    try:
        found = load(session.config or PATH)
    except ServedErrors as error:
        raise StopError(str(error)) from error
    if stdio:
        serve_stdio(found)
        return
    layers = {
        name: {"adapter": offer.adapter, "resource": offer.resource, "traits": offer.words}
        for name, offer in LayerServer(found).hello.layers.items()
    }
    rows = [(name, each["adapter"], each["resource"], ", ".join(each["traits"])) for name, each in layers.items()]
    session.show({"layers": layers}, lambda: table(("LAYER", "ADAPTER", "MOVES", "TRAITS"), rows))


def upgrade(
    session: Session,
    service: str,
    layer: str,
    to: Annotated[str, typer.Option("--to", metavar="REVISION", help="Else the newest that there is.")] = "",
    over_hold: Annotated[bool, typer.Option("--over-hold", help="Also while the service is held.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask, also on a terminal.")] = False,
) -> int | None:
    """Take the schema of a database forward. A verified copy is taken first, and the whole way is gone on that.

    The same order again goes on with one that was cut off.
    """
    what = f"{safe(service)}/{safe(layer)}"
    if not is_sure(f"Upgrade {what} to {safe(to or 'the newest')}?", yes=yes):
        return NO
    body = {"layer": layer, "to": to, "over_hold": over_hold}
    with goes_on(session, f"{what}: a copy is taken, the way is gone on that, then for real", "status"):
        done = session.client.send("POST", "services", service, "upgrade", body=body, patience=PATIENCE)
    session.show(done, lambda: _upgraded(done))
    return None


def _upgraded(done: dict[str, str]) -> None:
    where = f"{safe(done['service'])}/{safe(done['layer'])}"
    if not done["copy"]:
        print(f"{where} is at {safe(done['after'])} already; nothing was done")
        return
    print(f"{where} is at {safe(done['after'])}, announced as {safe(done['change'])}")
    print(f"  what was there: {safe(done['before'])}, in copy {safe(done['copy'])}")


alone(app, served)
command(app, "upgrade")(upgrade)
