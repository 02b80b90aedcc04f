"""`rollbackd install` and `uninstall`: the service onto a host and off again; each step is told before it is done."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rollbackd.cli.command_frame import NO, Session, StopError, complain, is_sure
from rollbackd.cli.terminal_text import safe

if TYPE_CHECKING:  # a heavy import
    from rollbackd.setup.steps import SetupStep, TargetHost

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing.")]
Force = Annotated[
    bool, typer.Option("--force", help="Replace what others wrote, too; the old file is kept as FILE.old.")
]
Root = Annotated[
    Path, typer.Option("--root", metavar="DIR", help="Not this host: the root directory of an image of another one.")
]
_SLASH = Path("/")


def install(session: Session, yes: Yes = False, force: Force = False, root: Root = _SLASH) -> int | None:
    """Put the service onto this host, or bring it up to date.

    As root, and as often as you like: the unit, its user and directories, completion, the manual page; and what the
    configuration needs: the drop-in, the polkit rule, the secrets in /etc/rollbackd/credentials, encrypted where this
    host can. All of it is shown first.
    """
    from rollbackd.cli.own_texts import texts
    from rollbackd.setup import service_files
    from rollbackd.setup.steps import TargetHost

    host = TargetHost(root.absolute())
    _refuse_older(session, host)
    base = service_files.base_steps(host, texts(), Path(sys.argv[0]).resolve())
    needed, said = _needed(session, host)
    reload = service_files.reload_step(host, [*base, *needed])
    code = carry_out(host, [*base, *needed, reload], yes=yes, force=force)
    if not code and reload.needed:
        said = [
            *said,
            "systemctl restart rollbackd, where it runs: it takes the unit over, and waits for a step in hand",
        ]
    for sentence in said:
        print(f"left to do: {safe(sentence)}")
    return code


def uninstall(
    session: Session,
    yes: Yes = False,
    force: Force = False,
    purge: Annotated[
        bool, typer.Option("--purge", help="Also the configuration, the secrets, the journal and the snapshots.")
    ] = False,
    root: Root = _SLASH,
) -> int | None:
    """Stop the service and take it off this host. Configuration, secrets and journal stay, unless --purge is given.

    A step in hand is waited for. The user stays, since files may be its own, and so does the program itself.
    """
    from rollbackd.cli.own_texts import texts
    from rollbackd.setup import service_files
    from rollbackd.setup.steps import TargetHost

    del session
    host = TargetHost(root.absolute())
    return carry_out(host, service_files.removal_steps(host, texts(), purge=purge), yes=yes, force=force)


def carry_out(host: "TargetHost", steps: "Sequence[SetupStep]", *, yes: bool, force: bool) -> int | None:
    """Show the plan, ask, do it; the exit code.

    :raises StopError: a step failed; those before it are done, and the same command goes on from there.
    """
    from rollbackd.setup.steps import SetupError, StepEffect
    from rollbackd.system.spawner import Spawner

    found = [(step, step.effect(host, force=force)) for step in steps]
    open_steps = [step for step, effect in found if effect not in {StepEffect.SAME, StepEffect.LEFT}]
    for step, effect in found:
        if effect is not StepEffect.SAME:
            print(f"{effect:<8} {safe(step.what)}  ({step.why})")
    if any(effect is StepEffect.LEFT for _, effect in found):
        complain("what says `left` was written by somebody else, and stays; --force replaces it")
    if not open_steps:
        print("nothing is left to do on this host")
        return None
    if not is_sure("Do this?", yes=yes):
        return NO
    spawner = Spawner()

    async def work() -> None:
        for step in open_steps:
            await step.do(host, spawner)

    try:
        asyncio.run(work())
    except (SetupError, OSError) as error:
        why = f"{error.filename}: {(error.strerror or '').lower()}" if isinstance(error, OSError) else str(error)
        raise StopError(f"{why}; what came before it is done, and the same command goes on from there") from error
    print(f"done: {len(open_steps)} steps")
    return None


def _needed(session: Session, host: "TargetHost") -> "tuple[Sequence[SetupStep], Sequence[str]]":
    """What the configuration needs, where there is one; and what is left to people."""
    from rollbackd.config.load import ConfigErrors
    from rollbackd.setup import service_files
    from rollbackd.system.spawner import Spawner

    path = host.at(session.config_path.absolute())
    if not path.exists():
        return (), [f"there is no {session.config_path} yet: rollbackd init"]
    try:
        config, credentials = service_files.read(path)
    except ConfigErrors as error:
        return (), [f"{error.faults[0]}; mend it, then again: rollbackd install"]
    encrypts = bool(credentials) and asyncio.run(service_files.can_encrypt(host, Spawner()))
    found = service_files.needed(host, config, credentials, encrypts=encrypts)
    return found.steps, found.lacking


def _refuse_older(session: Session, host: "TargetHost") -> None:
    """:raises StopError: a newer version wrote the journal, which this one cannot read."""
    from rollbackd.cli.locations import journal_url
    from rollbackd.config.models import JOURNAL
    from rollbackd.journal import JournalRefused, JournalUnavailable
    from rollbackd.journal.offline import refuse_newer

    place = host.at(Path(journal_url(host.at(session.config_path.absolute())).removeprefix(JOURNAL)))
    if not place.exists():
        return
    try:
        refuse_newer(f"{JOURNAL}{place}")
    except (JournalRefused, JournalUnavailable) as error:
        raise StopError(str(error)) from error
