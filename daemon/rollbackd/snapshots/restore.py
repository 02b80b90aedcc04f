"""Restores: from the newest snapshot to the oldest each is read, and a layer is taken to the first whole one.

Where none that is here will do, copies elsewhere are fetched, the newest first. What is there now is saved as a
snapshot before anything is touched. What a crash cut off is finished at the next start.
"""

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import takewhile

from rollbackd import facts
from rollbackd.adapter import AdapterError, Snapshot
from rollbackd.journal import Entry
from rollbackd.model import DAEMON, service_stream
from rollbackd.policy.target import candidates
from rollbackd.snapshots.history import SnapshotRun
from rollbackd.snapshots.layer_snapshots import LayerSnapshots, NotKept
from rollbackd.snapshots.offsite import OffsiteCopy, OffsiteStore, digest_of
from rollbackd.snapshots.schedule import notice
from rollbackd.snapshots.selection import good_releases, to_restore
from rollbackd.snapshots.views import RestoredView
from rollbackd.system import log
from rollbackd.system.boundary import boundary

RESTORE = "restore"
_CANDIDATES = 5
"""How many good states, the newest first, are looked at until one is here to go back to."""
_FETCHED = 10
"""How many copies are fetched and tried for one order at most."""


@dataclass(slots=True)
class _Search:
    """What was found on the way to a snapshot that will do."""

    layer_snapshots: LayerSnapshots
    actor: str
    passed_over: list[str] = field(default_factory=list)
    fetched: str = ""
    refused: set[str] = field(default_factory=set)
    """Releases that were whole, and yet cannot be put in place."""

    async def is_whole(self, one: Snapshot) -> bool:
        """Read all of a snapshot; whether every hash agrees."""
        try:
            problems = await self.layer_snapshots.verify(one, self.actor)
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
        strangers: list[str] = []
        sent = await self.layer_snapshots.sent()
        # Those that were sent from here come first: whoever holds the place may put any number of others there.
        for place, copy in sorted(await self._copies(), key=lambda each: each[1].name not in sent):
            if copy.release in but or (digests is not None and copy.release not in digests):
                continue
            known = sent.get(copy.name, ())
            if stranger := place.stranger(copy, known):
                strangers.append(f"copy {copy.name}: {stranger}")
                continue
            if tried == _FETCHED:
                break
            tried += 1
            try:
                one = await fetch(self.layer_snapshots, place, copy, known, self.actor)
            except AdapterError as error:
                self.passed_over.append(f"copy {copy.name}: {error}")
                continue
            if await self.is_whole(one):
                self.fetched = copy.name
                return one
        self.passed_over += strangers[:1]
        return None

    async def _copies(self) -> list[tuple[OffsiteStore, OffsiteCopy]]:
        """The copies of all places, newest first."""
        found: list[tuple[OffsiteStore, OffsiteCopy]] = []
        for place in self.layer_snapshots.elsewhere.values():
            if place.gives_back:
                try:
                    found += [(place, copy) for copy in await place.copies()]
                except AdapterError as error:
                    self.passed_over.append(str(error))
        return sorted(found, key=lambda each: (each[1].created, each[1].name), reverse=True)


async def fetch(
    layer_snapshots: LayerSnapshots,
    place: OffsiteStore,
    copy: OffsiteCopy,
    known: Collection[str],
    actor: str = DAEMON,
) -> Snapshot:
    """Take a copy in, and write that down.

    :param known: the hashes of what was sent under that name.
    :raises AdapterError: it cannot be fetched, or is not ours.
    """
    one = await layer_snapshots.ask(place.fetch(layer_snapshots.adapter, copy, known))
    if digest_of(one.release) != copy.release:
        raise AdapterError(f"{copy.name} holds another release than its name says", permanent=True)
    fact = facts.Snapshotted(
        layer_snapshots.layer, one.name, one.release, one.created, why="offsite", size=one.size, files=one.files
    )
    await layer_snapshots.note(actor, fact)
    boundary("snapshots.fetched")
    return one


class SnapshotRestore:
    """Restores by hand, and looks after what a rollback will need."""

    def __init__(self) -> None:
        self._not_there: set[tuple[str, str]] = set()
        """Releases, by layer, of which no copy was found."""
        self._log = log.get("snapshots")

    async def restore(
        self, layer_snapshots: LayerSnapshots, name: str, only: Sequence[str], actor: str
    ) -> RestoredView:
        """Choose a snapshot, read it, and put it in place. The layer's lock is held.

        :param name: empty: the best one that there is.
        :raises NotKept: nothing was touched, or what was there is there again; the sentence says which.
        """
        search = _Search(layer_snapshots, actor)
        while True:
            try:
                chosen = await (self._named(search, name) if name else self._best(search))
            except AdapterError as error:
                raise NotKept(f"{layer_snapshots.name} was not restored, nothing was touched: {error}") from error
            begun = await self._begin(layer_snapshots, chosen, tuple(only), actor)
            try:
                done = await self.finish(layer_snapshots, begun, chosen.release)
                break
            except NotKept as error:
                if name or only or not (isinstance(error.__cause__, AdapterError) and error.__cause__.permanent):
                    raise
                search.refused.add(chosen.release)
                search.passed_over.append(f"snapshot {chosen.name}: {error.__cause__}")
        return RestoredView(
            layer_snapshots.service,
            layer_snapshots.layer,
            chosen.name,
            chosen.release,
            done.saved,
            tuple(search.passed_over),
            search.fetched,
        )

    async def _named(self, search: _Search, name: str) -> Snapshot:
        layer_snapshots = search.layer_snapshots
        known = next((one for one in await layer_snapshots.snapshots() if one.name == name), None)
        if known is not None and await search.is_whole(known):
            return known
        found = None
        if known is not None and known.release:
            found = await search.from_elsewhere({digest_of(known.release)})
        if found is not None:
            return found
        if known is None:
            raise NotKept(
                f'{layer_snapshots.name} has no snapshot "{name}"; '
                f"`rollbackd snapshot list {layer_snapshots.service} {layer_snapshots.layer}` has "
                "their names"
            )
        raise NotKept(
            f"{layer_snapshots.name} was not restored, nothing was touched: {'; '.join(search.passed_over)}; "
            "name another one, "
            "or none: then the newest that is whole is used"
        )

    async def _best(self, search: _Search) -> Snapshot:
        layer_snapshots, ledger = search.layer_snapshots, search.layer_snapshots.ledger
        present = await layer_snapshots.present()
        good = good_releases(ledger, layer_snapshots.layer)
        quarantined = {release for layer, release in ledger.quarantined if layer == layer_snapshots.layer}
        try:
            kept = await layer_snapshots.snapshots()
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
        raise NotKept(
            f"{layer_snapshots.name}: no snapshot other than what is there can be restored{said}; "
            "a person is needed: name one "
            f"(`rollbackd snapshot list {layer_snapshots.service} {layer_snapshots.layer}`), or import one"
        )

    async def _begin(
        self, layer_snapshots: LayerSnapshots, chosen: Snapshot, only: tuple[str, ...], actor: str
    ) -> SnapshotRun:
        """Write the intent, announced as a change: what comes of it is put down to who ordered it."""
        run = layer_snapshots.new_run()
        announced = facts.Announced(
            f"{RESTORE}-{run}",
            {} if only else {layer_snapshots.layer: chosen.release},
            RESTORE,
            text=f"snapshot {chosen.name} of {layer_snapshots.layer} is restored",
        )
        more = (Entry(service_stream(layer_snapshots.service), announced, actor),)
        return await layer_snapshots.begin(RESTORE, actor, more, run=run, name=chosen.name, only=only)

    async def finish(
        self, layer_snapshots: LayerSnapshots, run: SnapshotRun, release: str = "", *, tell: bool = False
    ) -> facts.SnapshotRestored:
        """Put a snapshot in place, or go on with what a crash cut off.

        :param tell: nobody waits for the answer: people are told when it fails.
        :raises NotKept: it failed; the sentence says what is there now.
        """
        fact = run.fact
        try:
            saved = await layer_snapshots.ask(layer_snapshots.adapter.restore(fact.name, fact.run, fact.only))
        except AdapterError as error:
            text = (
                f"{layer_snapshots.name} was being restored to {fact.name}, was cut off, "
                f"and cannot be gone on with: {error}"
            )
            more = (notice(layer_snapshots, text),) if tell else ()
            await layer_snapshots.note(
                run.actor, facts.SnapshotEnded(layer_snapshots.layer, fact.run, (str(error),)), more=more
            )
            raise NotKept(f"{layer_snapshots.name} was not restored to {fact.name}: {error}") from error
        boundary("snapshots.restored")
        done = facts.SnapshotRestored(layer_snapshots.layer, fact.name, release, saved.name, fact.run)
        await layer_snapshots.note(run.actor, done, facts.SnapshotEnded(layer_snapshots.layer, fact.run))
        self._log.info("restored", layer=layer_snapshots.name, snapshot=fact.name, saved=saved.name, actor=run.actor)
        return done

    async def finish_cut_off(self, layer_snapshots: LayerSnapshots) -> None:
        """Finish restores that an earlier process began. People are told of one that cannot be finished."""
        for run in [one for one in layer_snapshots.past.open.values() if one.fact.what == RESTORE]:
            since = next((one for one in layer_snapshots.ledger.rollbacks if one.acted and one.opened >= run.at), None)
            if since is not None:  # that took the service where somebody wanted it after this restore
                text = f"{layer_snapshots.name} was being restored to {run.fact.name}, was cut off, and is left as "
                text += f"{since.incident} left it; restore it again if that is still wanted"
                ended = facts.SnapshotEnded(layer_snapshots.layer, run.fact.run, (text,))
                await layer_snapshots.note(run.actor, ended, more=(notice(layer_snapshots, text),))
                continue
            with suppress(NotKept):
                await self.finish(layer_snapshots, run, tell=True)

    # -- what a rollback by itself will need ----------------------------------------------------
    async def missing(self, layer_snapshots: LayerSnapshots) -> list[str]:
        """Releases of good states, newest first, that are not here and may be elsewhere; none where a newer one is.

        That all are here is the rule, and costs one look.
        """
        if layer_snapshots.is_data or not any(place.gives_back for place in layer_snapshots.elsewhere.values()):
            return []  # a good state says nothing about data
        goals = candidates(layer_snapshots.ledger, layer_snapshots.ledger.present)[:_CANDIDATES]
        releases = [
            each.state.releases[layer_snapshots.layer].id
            for each in goals
            if layer_snapshots.layer in each.state.releases
        ]
        try:
            there = await layer_snapshots.restorable()
        except AdapterError as error:
            self._log.warning("cannot be looked at", layer=layer_snapshots.name, error=str(error))
            return []
        wanted = takewhile(lambda release: release not in there, releases)
        return [release for release in wanted if (layer_snapshots.name, release) not in self._not_there]

    async def fetch_one(self, layer_snapshots: LayerSnapshots, releases: Sequence[str]) -> None:
        """Take in a copy of the first of these releases that has one. The layer's lock is not held, so that a person's
        order need not wait."""
        for release in releases:
            search = _Search(layer_snapshots, DAEMON)
            found = await search.from_elsewhere({digest_of(release)})
            if found is not None:
                self._log.info("fetched", layer=layer_snapshots.name, snapshot=found.name, copy=search.fetched)
                return
            self._not_there.add((layer_snapshots.name, release))
            self._log.warning("no copy of a good state", layer=layer_snapshots.name, problems=search.passed_over)

    def look_anew(self) -> None:
        """Look for copies again that were not found before."""
        self._not_there.clear()
