"""Takes a layer to a snapshot: from the newest to the oldest, each read and hashed, the first whole one is used.

Where none that is here will do, copies elsewhere are fetched, the newest first. What is there now is a snapshot of its
own before anything is touched. What a crash cut off is finished at the next start.
"""

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import takewhile

from rollbackd import facts, log
from rollbackd.adapter import AdapterError, Snapshot
from rollbackd.boundary import boundary
from rollbackd.journal import Entry
from rollbackd.keeper.choosing import good_releases, to_restore
from rollbackd.keeper.offsite import Copy, Elsewhere, digest_of
from rollbackd.keeper.past import Run
from rollbackd.keeper.rounds import notice
from rollbackd.keeper.shelf import Shelf, Unkept
from rollbackd.keeper.views import RestoredView
from rollbackd.model import DAEMON, service_stream
from rollbackd.policy.target import candidates

RESTORE = "restore"
_CANDIDATES = 5
"""Good states, the newest first, of which one must be here to go back to."""
_FETCHED = 10
"""Copies that are fetched and tried for one order at most."""


@dataclass(slots=True)
class _Search:
    """What was found on the way to a snapshot that will do."""

    shelf: Shelf
    actor: str
    passed_over: list[str] = field(default_factory=list)
    fetched: str = ""
    refused: set[str] = field(default_factory=set)
    """Releases that were whole, and yet cannot be put in place."""

    async def is_whole(self, one: Snapshot) -> bool:
        """Read and hash all of it."""
        try:
            problems = await self.shelf.verify(one, self.actor)
        except AdapterError as error:
            problems = [f"snapshot {one.name}: {error}"]
        self.passed_over += problems[:1]
        return not problems

    async def from_elsewhere(
        self, digests: Collection[str] | None = None, but: Collection[str] = ()
    ) -> Snapshot | None:
        """The newest copy that can be fetched and is whole.

        :param digests: only of these releases; None: of any.
        :param but: of none of these.
        """
        tried = 0
        for place, copy in await self._copies():
            if copy.release in but or (digests is not None and copy.release not in digests):
                continue
            if tried == _FETCHED:
                break
            tried += 1
            try:
                one = await fetch(self.shelf, place, copy, self.actor)
            except AdapterError as error:
                self.passed_over.append(f"copy {copy.name}: {error}")
                continue
            if await self.is_whole(one):
                self.fetched = copy.name
                return one
        return None

    async def _copies(self) -> list[tuple[Elsewhere, Copy]]:
        """Of all places, newest first."""
        found: list[tuple[Elsewhere, Copy]] = []
        for place in self.shelf.elsewhere.values():
            if place.gives_back:
                try:
                    found += [(place, copy) for copy in await place.copies()]
                except AdapterError as error:
                    self.passed_over.append(str(error))
        return sorted(found, key=lambda each: (each[1].created, each[1].name), reverse=True)


async def fetch(shelf: Shelf, place: Elsewhere, copy: Copy, actor: str = DAEMON) -> Snapshot:
    """Take a copy in, and write that down. :raises AdapterError: it cannot be had."""
    one = await shelf.ask(place.fetch(shelf.adapter, copy))
    if digest_of(one.release) != copy.release:
        raise AdapterError(f"{copy.name} holds another release than its name says", permanent=True)
    fact = facts.Snapshotted(
        shelf.layer, one.name, one.release, one.created, why="offsite", size=one.size, files=one.files
    )
    await shelf.note(actor, fact)
    boundary("keeper.fetched")
    return one


class Restoring:
    """Restores by hand, and what a rollback by itself will need."""

    def __init__(self) -> None:
        self._not_there: set[tuple[str, str]] = set()
        """Releases, by layer, of which no copy was found."""
        self._log = log.get("keeper")

    async def restore(self, shelf: Shelf, name: str, only: Sequence[str], actor: str) -> RestoredView:
        """Choose, read, put in place. Its lock is held.

        :param name: empty: the best one that there is.
        :raises Unkept: nothing was touched, or what was there is there again; the sentence says which.
        """
        search = _Search(shelf, actor)
        while True:
            try:
                chosen = await (self._named(search, name) if name else self._best(search))
            except AdapterError as error:
                raise Unkept(f"{shelf.name} was not restored, nothing was touched: {error}") from error
            begun = await self._begin(shelf, chosen, tuple(only), actor)
            try:
                done = await self.finish(shelf, begun, chosen.release)
                break
            except Unkept as error:
                if name or only or not (isinstance(error.__cause__, AdapterError) and error.__cause__.permanent):
                    raise
                search.refused.add(chosen.release)
                search.passed_over.append(f"snapshot {chosen.name}: {error.__cause__}")
        return RestoredView(
            shelf.service,
            shelf.layer,
            chosen.name,
            chosen.release,
            done.saved,
            tuple(search.passed_over),
            search.fetched,
        )

    async def _named(self, search: _Search, name: str) -> Snapshot:
        shelf = search.shelf
        known = next((one for one in await shelf.snapshots() if one.name == name), None)
        if known is not None and await search.is_whole(known):
            return known
        found = None
        if known is not None and known.release:
            found = await search.from_elsewhere({digest_of(known.release)})
        if found is not None:
            return found
        if known is None:
            raise Unkept(
                f'{shelf.name} has no snapshot "{name}"; `rollbackd snapshot list {shelf.service} {shelf.layer}` has '
                "their names"
            )
        raise Unkept(
            f"{shelf.name} was not restored, nothing was touched: {'; '.join(search.passed_over)}; name another one, "
            "or none: then the newest that is whole is used"
        )

    async def _best(self, search: _Search) -> Snapshot:
        shelf, ledger = search.shelf, search.shelf.ledger
        present = await shelf.present()
        good = good_releases(ledger, shelf.layer)
        quarantined = {release for layer, release in ledger.quarantined if layer == shelf.layer}
        try:
            kept = await shelf.snapshots()
        except AdapterError as error:  # all of it may be gone: copies elsewhere are for that
            search.passed_over.append(str(error))
            kept = []
        left_out = quarantined | search.refused
        for one in to_restore(kept, present, good, left_out):
            if await search.is_whole(one):
                return one
        but = {digest_of(release) for release in (present, *left_out)}
        for digests in ({digest_of(release) for release in good}, None):
            if found := await search.from_elsewhere(digests, but):
                return found
        said = f": {'; '.join(search.passed_over)}" if search.passed_over else ""
        raise Unkept(
            f"{shelf.name}: no snapshot other than what is there can be restored{said}; a person is needed: name one "
            f"(`rollbackd snapshot list {shelf.service} {shelf.layer}`), or import one"
        )

    async def _begin(self, shelf: Shelf, chosen: Snapshot, only: tuple[str, ...], actor: str) -> Run:
        """The intent, announced as a change: what comes of it is put down to who ordered it."""
        run = shelf.new_run()
        announced = facts.Announced(
            f"{RESTORE}-{run}",
            {} if only else {shelf.layer: chosen.release},
            RESTORE,
            text=f"snapshot {chosen.name} of {shelf.layer} is restored",
        )
        more = (Entry(service_stream(shelf.service), announced, actor),)
        return await shelf.begin(RESTORE, actor, more, run=run, name=chosen.name, only=only)

    async def finish(self, shelf: Shelf, run: Run, release: str = "", *, tell: bool = False) -> facts.SnapshotRestored:
        """Put it in place, or go on with what a crash cut off.

        :param tell: nobody waits for the answer: people are told when it fails.
        :raises Unkept: it failed; the sentence says what is there now.
        """
        fact = run.fact
        try:
            saved = await shelf.ask(shelf.adapter.restore(fact.name, fact.run, fact.only))
        except AdapterError as error:
            text = f"{shelf.name} was being restored to {fact.name}, was cut off, and cannot be gone on with: {error}"
            more = (notice(shelf, text),) if tell else ()
            await shelf.note(run.actor, facts.SnapshotEnded(shelf.layer, fact.run, (str(error),)), more=more)
            raise Unkept(f"{shelf.name} was not restored to {fact.name}: {error}") from error
        boundary("keeper.restored")
        done = facts.SnapshotRestored(shelf.layer, fact.name, release, saved.name, fact.run)
        await shelf.note(run.actor, done, facts.SnapshotEnded(shelf.layer, fact.run))
        self._log.info("restored", layer=shelf.name, snapshot=fact.name, saved=saved.name, actor=run.actor)
        return done

    async def finish_cut_off(self, shelf: Shelf) -> None:
        """Restores that an earlier life began. What cannot be finished is told: nobody waits for an answer any more."""
        for run in [one for one in shelf.past.open.values() if one.fact.what == RESTORE]:
            since = next((one for one in shelf.ledger.rollbacks if one.acted and one.opened >= run.at), None)
            if since is not None:  # it took the service where somebody wanted it later than this
                text = f"{shelf.name} was being restored to {run.fact.name}, was cut off, and is left as "
                text += f"{since.incident} left it; restore it again if that is still wanted"
                ended = facts.SnapshotEnded(shelf.layer, run.fact.run, (text,))
                await shelf.note(run.actor, ended, more=(notice(shelf, text),))
                continue
            with suppress(Unkept):
                await self.finish(shelf, run, tell=True)

    # -- what a rollback by itself will need ----------------------------------------------------
    async def missing(self, shelf: Shelf) -> list[str]:
        """The releases of good states, newest first, that are not here and may be elsewhere; none where a newer one is.

        What is here already is the rule, and costs a look.
        """
        if not any(place.gives_back for place in shelf.elsewhere.values()):
            return []
        goals = candidates(shelf.ledger, shelf.ledger.present)[:_CANDIDATES]
        releases = [each.state.releases[shelf.layer].id for each in goals if shelf.layer in each.state.releases]
        try:
            there = await shelf.restorable()
        except AdapterError as error:
            self._log.warning("cannot be looked at", layer=shelf.name, error=str(error))
            return []
        wanted = takewhile(lambda release: release not in there, releases)
        return [release for release in wanted if (shelf.name, release) not in self._not_there]

    async def fetch_one(self, shelf: Shelf, releases: Sequence[str]) -> None:
        """Take in a copy of the first of these releases that has one; without the shelf's lock: a person's order need
        not wait for it.
        """
        for release in releases:
            search = _Search(shelf, DAEMON)
            found = await search.from_elsewhere({digest_of(release)})
            if found is not None:
                self._log.info("fetched", layer=shelf.name, snapshot=found.name, copy=search.fetched)
                return
            self._not_there.add((shelf.name, release))
            self._log.warning("no copy of a good state", layer=shelf.name, problems=search.passed_over)

    def look_anew(self) -> None:
        """Copies may have come since."""
        self._not_there.clear()
