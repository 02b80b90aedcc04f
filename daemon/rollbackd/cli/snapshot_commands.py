"""The commands of snapshots: a layer's past, kept by hand. A line for each layer, as soon as it is done."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from rollbackd.cli.command_frame import NO, Command, Session, StopError, UsageError, command, complain, is_sure
from rollbackd.cli.daemon_client import AnswerError
from rollbackd.cli.terminal_text import moment, safe, table
from rollbackd.system.whole_file import whole_file

UNREADABLE = "unreadable"
"""Why a snapshot was taken of which nothing is known."""
PATIENCE = 6 * 3600.0
"""Seconds; reading, restoring and sending a large snapshot takes its time."""
View = dict[str, Any]
_Service = Annotated[str | None, typer.Argument(metavar="SERVICE")]
_Layer = Annotated[str | None, typer.Argument(metavar="LAYER", help="Else the only one that keeps snapshots.")]
_EachLayer = Annotated[str | None, typer.Argument(metavar="LAYER", help="Else each that keeps snapshots.")]
_All = Annotated[bool, typer.Option("--all", help="Of all services.")]

app = typer.Typer(
    name="snapshot",
    help="Keep, compare, verify and restore what layers hold.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def take(
    session: Session,
    service: _Service = None,
    layer: _EachLayer = None,
    name: Annotated[str, typer.Option("--name", help="What it is to be called: checkpoint-7; needs a layer.")] = "",
    everything: _All = False,
) -> int | None:
    """Take snapshots, and read each one."""
    if name and not layer:
        raise UsageError("--name is for one layer: rollbackd snapshot take SERVICE LAYER --name NAME")

    def one(where: View) -> View:
        body = {"layer": where["layer"], "name": name}
        with goes_on(session, f"{_place(where)}: a snapshot is taken, read, and sent where the calendar sends it"):
            return _order(session, where["service"], "", body)

    return _each(session, _meant(session, service, layer, everything, "take"), one, _taken)


def listed(session: Session, service: _Service = None, layer: _EachLayer = None) -> int | None:
    """List snapshots, newest first: when they were taken, whether they were read, and what they are good for.

    Exit code 1 when one is damaged, a layer cannot say, or its last run on the calendar had a problem.
    """
    found = session.client.get("snapshots", service=service or "", layer=layer or "", patience=PATIENCE)
    session.show(found, lambda: _list(found["layers"]))
    return NO if any(_is_amiss(one) for one in found["layers"]) else None


def verify(
    session: Session,
    service: _Service = None,
    layer: _EachLayer = None,
    name: Annotated[str, typer.Option("--name", help="Only this one; else all of them.")] = "",
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Also restore it into a scratch place, and compare.")
    ] = False,
    everything: _All = False,
) -> int | None:
    """Read all of each snapshot and compare every hash.

    Exit code 1 when one of them is damaged.
    """
    query = _query(service, layer, everything, "verify")
    layers = session.client.get("snapshots", **query, patience=PATIENCE)["layers"]
    wanted = [
        {"service": kept["service"], "layer": kept["layer"], "snapshot": one["name"]}
        for kept in layers
        for one in kept["snapshots"]
        if name in {"", one["name"]}
    ]
    problems = [f"{kept['service']}/{kept['layer']}: {kept['problem']}" for kept in layers if kept["problem"]]
    for problem in problems:
        complain(problem)
    if not wanted and not problems:
        raise StopError(f'there is no snapshot "{name}"' if name else "there is no snapshot")

    def one(where: View) -> View:
        body = {"layer": where["layer"], "snapshot": where["snapshot"], "rehearse": rehearse}
        with _tells(session, f"{_place(where)}: {safe(where['snapshot'])} is read"):
            return _order(session, where["service"], "verify", body)

    return _each(session, wanted, one, _verified) or (NO if problems else None)


def diff(
    session: Session,
    service: str,
    layer: str,
    older: Annotated[str, typer.Argument(metavar="SNAPSHOT")],
    newer: Annotated[str, typer.Argument(metavar="NEWER", help="Else what is there now.")] = "",
) -> None:
    """Show what differs from a snapshot to a newer one, or to what is there now. Secrets are masked."""
    found = _order(session, service, "diff", {"layer": layer, "older": older, "newer": newer})
    session.show(found, lambda: _differences(found["differences"]))


def lost(
    session: Session,
    service: str,
    layer: _Layer = None,
    export: Annotated[
        bool, typer.Option("--export", help="Write the rows to files on the layer's host, and say where.")
    ] = False,
) -> None:
    """Count the rows that the last restore left behind in the database that it replaced."""
    found = _order(session, service, "lost", {"layer": layer or "", "export": export})
    session.show(found, lambda: _differences(found["differences"]))


def restore(
    session: Session,
    service: str,
    layer: _Layer = None,
    name: Annotated[str | None, typer.Argument(metavar="SNAPSHOT", help="Else the best that there is.")] = None,
    only: Annotated[list[str] | None, typer.Option("--only", metavar="PART", help="files, variables: not all.")] = None,
    over_hold: Annotated[bool, typer.Option("--over-hold", help="Also while the service is held.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask, also on a terminal.")] = False,
) -> int | None:
    """Take a layer to a snapshot. What is there is saved first.

    Without a name: a good state's, else the newest older than what is there; each is read, the first whole one is used.
    """
    what = f"{service}/{layer}" if layer else service
    if not is_sure(f"Restore {safe(what)} to {safe(name or 'its best snapshot')}?", yes=yes):
        return NO
    body = {"layer": layer or "", "snapshot": name or "", "only": only or [], "over_hold": over_hold}
    with goes_on(session, f"{safe(service)}: snapshots are read, what is there is saved, then restored"):
        done = _order(session, service, "restore", body)
    session.show(done, lambda: _restored(done))
    return None


def export(
    session: Session,
    service: str,
    layer: str,
    name: Annotated[str, typer.Argument(metavar="SNAPSHOT")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Readable by you alone: it holds secrets.")],
) -> None:
    """Write a snapshot as one file, which appears whole or not at all."""
    with _written(file) as sink:
        size = session.client.download(
            "services", service, "snapshots", "file", sink=sink.write, patience=PATIENCE, layer=layer, snapshot=name
        )
    said = {"service": service, "layer": layer, "snapshot": name, "file": str(file), "size": size}
    session.show(said, lambda: print(f"{safe(file)}: snapshot {safe(name)} of {safe(service)}/{safe(layer)}"))


def import_(
    session: Session,
    service: str,
    layer: str,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="As `rollbackd snapshot export` wrote it.")],
) -> int | None:
    """Take in a snapshot from a file, once every hash agrees."""
    try:
        with file.open("rb") as source, goes_on(session, f"{safe(file)} is sent and read"):
            taken = session.client.upload(
                "services", service, "snapshots", "file", source=source, patience=PATIENCE, layer=layer
            )
    except OSError as error:
        raise StopError(f"{file}: {(error.strerror or str(error)).lower()}") from error
    session.show(taken, lambda: _taken(taken))
    return NO if taken["problems"] else None


def prune(session: Session, service: _Service = None, layer: _EachLayer = None, everything: _All = False) -> int | None:
    """Drop the snapshots that nothing keeps: no number, no day or week, no good state, no open incident."""

    def one(where: View) -> View:
        return {**where, **_order(session, where["service"], "prune", {"layer": where["layer"]}), "problems": []}

    return _each(session, _meant(session, service, layer, everything, "prune"), one, _pruned)


_COMMANDS: dict[str, Command] = {
    "take": take, "list": listed, "verify": verify, "diff": diff, "lost": lost, "restore": restore, "export": export,
    "import": import_, "prune": prune,
}  # fmt: skip
for _name, _run in _COMMANDS.items():
    command(app, _name)(_run)


# -- what they share ----------------------------------------------------------------------------
def _query(service: str | None, layer: str | None, everything: bool, verb: str) -> View:
    if (service is None) != everything:
        raise UsageError(f"name a service, or --all: rollbackd snapshot {verb} SERVICE [LAYER]")
    return {"service": service or "", "layer": layer or ""}


def _meant(session: Session, service: str | None, layer: str | None, everything: bool, verb: str) -> list[View]:
    query = _query(service, layer, everything, verb)
    found: list[View] = session.client.get("snapshots", **query, brief=True)["layers"]
    if not found and layer:  # whoever is asked says what is wrong with it
        return [{"service": service, "layer": layer}]
    if not found:
        raise StopError("no layer keeps snapshots; docs/snapshots.md says which do")
    return found


def _order(session: Session, service: str, what: str, body: View) -> View:
    parts = ("services", service, "snapshots", *([what] if what else []))
    found: View = session.client.send("POST", *parts, body=body, patience=PATIENCE)
    return found


def _each(
    session: Session, wanted: list[View], one: Callable[[View], View], show: Callable[[View], None]
) -> int | None:
    """One after the other, a line each; what fails does not keep the others from being done."""
    results: list[View] = []
    for where in wanted:
        try:
            result = one(where)
        except AnswerError as error:
            if len(wanted) == 1:
                raise
            result = {**where, "problems": [str(error)]}
            complain(str(error))
        else:
            if not session.json:
                show(result)
        results.append(result)
    if session.json:
        session.show({"results": results}, lambda: None)
    return NO if any(result["problems"] for result in results) else None


@contextmanager
def _tells(session: Session, text: str) -> Iterator[None]:
    """Say what is done to somebody who waits before a terminal: it may take minutes."""
    if not session.json and sys.stderr.isatty():
        print(f"{text} …", file=sys.stderr, flush=True)
    yield


@contextmanager
def goes_on(session: Session, text: str, shown: str = "snapshot list") -> Iterator[None]:
    """The same for what the daemon does to its end, also when nobody waits for it any more."""
    try:
        with _tells(session, text):
            yield
    except KeyboardInterrupt:
        raise StopError(f"rollbackd goes on with it; `rollbackd {shown}` shows what came of it") from None


@contextmanager
def _written(file: Path) -> Iterator[BinaryIO]:
    """A file that appears when the block ends well."""
    try:
        with whole_file(file) as sink:
            yield sink
    except OSError as error:
        raise StopError(f"{file}: {(error.strerror or str(error)).lower()}") from error


# -- how it looks -------------------------------------------------------------------------------
def _place(one: View) -> str:
    return f"{safe(one['service'])}/{safe(one['layer'])}"


def _taken(one: View) -> None:
    made = one["snapshot"]
    print(f"{_place(one)}: {safe(made['name'])}, {made['files']} files, {_size(made['size'])}", flush=True)
    for copy in one["copies"]:
        print(f"  copied: {safe(copy)}")
    for problem in one["problems"]:
        print(f"  problem: {safe(problem)}")


def _verified(one: View) -> None:
    how = "restored into scratch" if one["snapshot"]["rehearsed"] else "whole"
    print(f"{_place(one)}: {safe(one['snapshot']['name'])} {'is damaged' if one['problems'] else how}", flush=True)
    for problem in one["problems"]:
        print(f"  {safe(problem)}")


def _pruned(one: View) -> None:
    dropped = one["dropped"]
    print(f"{_place(one)}: {len(dropped)} dropped{': ' if dropped else ''}{safe(', '.join(dropped))}", flush=True)


def _restored(one: View) -> None:
    for text in one["passed_over"]:
        print(f"passed over: {safe(text)}")
    source = f", fetched from {safe(one['fetched'])}" if one["fetched"] else ""
    print(f"{_place(one)} is at {safe(one['snapshot'])}{source}")
    print(f"  what was there: {safe(one['saved'])}")
    print(
        f"  back to that:   rollbackd snapshot restore {safe(one['service'])} {safe(one['layer'])} {safe(one['saved'])}"
    )


def _is_amiss(one: View) -> bool:
    damaged = (each for each in one["snapshots"] if each["problems"] or not (each["restorable"] or each.get("kind")))
    return bool(one["problem"] or one["problems"] or any(damaged))


def _list(layers: list[View]) -> None:
    if not layers:
        print("no layer keeps snapshots")
    for number, one in enumerate(layers):
        if number:
            print()
        print(f"{_place(one)} ({safe(one['adapter'])}){_calendar(one)}")
        for problem in filter(None, (one["problem"], *one["problems"])):
            print(f"  problem: {safe(problem)}")
        if one["snapshots"]:
            rows = (
                (
                    each["name"],
                    moment(each["created"]) if each["why"] != UNREADABLE else "",
                    each["why"],
                    str(each["files"]),
                    _size(each["size"]),
                    _note(each),
                )
                for each in one["snapshots"]
            )
            table(("SNAPSHOT", "TAKEN", "WHY", "FILES", "SIZE", "IS"), rows)
        elif not one["problem"]:
            print("  no snapshots")


def _calendar(one: View) -> str:
    parts = []
    if one["at_work"]:
        parts.append("a run goes on")
    if one["ended"]:
        parts.append(f"last run {moment(one['ended'])}")
    if one["next"]:
        parts.append(f"next {moment(one['next'])}")
    return f": {', '.join(parts)}" if parts else ""


def _note(one: View) -> str:
    if one["problems"]:
        return f"damaged: {one['problems'][0]}"
    if one["why"] == UNREADABLE:
        return "damaged: `rollbackd snapshot verify` says how"
    kind = one.get("kind", "")
    if not one["restorable"] and not kind:
        return "not restorable: contents are missing"
    given = (("there now", one["present"]), ("good", one["good"]), (f"the {kind} alone", kind))
    words = [word for word, is_so in given if is_so]
    if one["verified"]:
        words.append(f"{'tried out' if one['rehearsed'] else 'read'} {moment(one['verified'])}")
    return ", ".join(words)


def _differences(found: list[View]) -> None:
    if not found:
        print("nothing differs")
    for one in found:
        print(f"{safe(one['kind'])} {safe(one['path'])}")
        for line in one["lines"]:
            print(f"  {safe(line)}")


def _size(count: int) -> str:
    """Bytes for people: `1.4 MiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
