"""The far side of adapter `remote`: this host's layers, served to an ops host."""

from typing import Annotated

import typer

from rollbackd.cli.command_frame import Session, StopError, UsageError
from rollbackd.cli.terminal_text import table


def layer(
    session: Session,
    stdio: Annotated[bool, typer.Option("--stdio", help="Answer an ops host, on standard input and output.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Show what is served.")] = False,
) -> None:
    """Serve this host's layers to an ops host. They are in --config, else in /etc/rollbackd/layers.yaml.

    Made for a forced command: command="rollbackd layer --stdio",restrict in authorized_keys.
    """
    from rollbackd.remote.server import LayerServer, serve_stdio
    from rollbackd.remote.settings import PATH, ServedErrors, load

    if stdio == listed:
        raise UsageError("what to do with the layers? rollbackd layer --stdio, or rollbackd layer --list")
    try:
        served = load(session.config or PATH)
    except ServedErrors as error:
        raise StopError(str(error)) from error
    if stdio:
        serve_stdio(served)
        return
    found = {
        name: {"adapter": offer.adapter, "resource": offer.resource, "traits": offer.words}
        for name, offer in LayerServer(served).hello.layers.items()
    }
    rows = [(name, each["adapter"], each["resource"], ", ".join(each["traits"])) for name, each in found.items()]
    session.show({"layers": found}, lambda: table(("LAYER", "ADAPTER", "MOVES", "TRAITS"), rows))
