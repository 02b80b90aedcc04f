"""The desk's part about snapshots, in memory: `checkout/config` keeps them."""

import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rollbackd.operations import OrderRefused, UnknownName
from rollbackd.snapshots.views import DifferenceView, KeptView, RestoredView, SnapshotView, TakenView
from rollbackd.views.shapes import UpgradeView

TAKEN = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)
ONE = SnapshotView("checkpoint-1", "3f2a9c112233aabb", TAKEN, "manual", 1500, 2, True, present=True, verified=TAKEN)
TWO = SnapshotView("bad\x1b[2J", "77d0e1f2a3b4ccdd", TAKEN, "schedule", 3 * 2**20, 7, True, problems=("harmed",))
KEPT = KeptView("checkout", "config", "files", (ONE, TWO), ended=TAKEN, problems=("off-site: `rclone`: exit 1",))


class FakeKeeping:
    """Records who ordered what in `orders`."""

    orders: list[tuple[Any, ...]]
    kept_ = KEPT
    content = b"a snapshot " * 1000
    taken_in = b""

    def _of(self, service: str, layer: str) -> None:
        if service != "checkout" or layer not in {"", "config"}:
            raise UnknownName(f'{service} has no layer "{layer}"')

    async def snapshots(self, service: str = "", layer: str = "") -> list[KeptView]:
        if service:
            self._of(service, layer)
        return [self.kept_]

    async def kept(self, service: str = "") -> list[tuple[str, str]]:
        if service:
            self._of(service, "")
        return [("checkout", "config")]

    @property
    def snapshot_manager(self) -> "FakeKeeping":
        return self

    def snapshot_layer(self, service: str, layer: str) -> str:
        self._of(service, layer)
        return layer

    async def take(self, service: str, layer: str, name: str, actor: str) -> TakenView:
        self._of(service, layer)
        self.orders.append(("take", service, layer, name, actor))
        return TakenView("checkout", "config", replace(ONE, name=name or "snapshot-1"), copies=("a@b.snapshot",))

    async def verify(self, service: str, layer: str, name: str, actor: str, *, rehearse: bool) -> TakenView:
        self._of(service, layer)
        self.orders.append(("verify", name, rehearse, actor))
        one = next(each for each in self.kept_.snapshots if each.name == name)
        return TakenView("checkout", "config", replace(one, rehearsed=rehearse), one.problems)

    async def diff(self, service: str, layer: str, older: str, newer: str) -> list[DifferenceView]:
        self._of(service, layer)
        return [DifferenceView("/srv/.env", "changed", ("TOKEN=***",))] if not newer else []

    async def restore_snapshot(
        self, service: str, layer: str, name: str, only: Sequence[str], actor: str, over_hold: bool
    ) -> RestoredView:
        self._of(service, layer)
        if name == "damaged":
            raise OrderRefused("checkout/config was not restored, nothing was touched")
        self.orders.append(("restore", name, tuple(only), over_hold, actor))
        return RestoredView("checkout", "config", name or ONE.name, ONE.release, "before-1", ("snapshot two: harmed",))

    async def prune(self, service: str, layer: str, actor: str) -> tuple[str, ...]:
        self._of(service, layer)
        self.orders.append(("prune", actor))
        return ("old",)

    async def upgrade(self, service: str, layer: str, to: str, actor: str, *, over_hold: bool) -> UpgradeView:
        self._of(service, layer)
        if to == "r9":
            raise OrderRefused("checkout/config: r9 fails on a copy; nothing else was touched")
        self.orders.append(("upgrade", layer, to, over_hold, actor))
        done = ("snapshot-before-1", "upgrade-1") if to != "r1" else ()
        return UpgradeView(service, layer, "r1", to or "r3", *done)

    @asynccontextmanager
    async def exported(self, service: str, layer: str, name: str) -> AsyncIterator[Path]:
        self._of(service, layer)
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory, "snapshot")
            file.write_bytes(self.content)
            yield file

    @asynccontextmanager
    async def place_for_file(self) -> AsyncIterator[Path]:
        with tempfile.TemporaryDirectory() as directory:
            yield Path(directory, "snapshot")

    async def take_in(self, service: str, layer: str, file: Path, actor: str) -> TakenView:
        self.taken_in = file.read_bytes()
        self.orders.append(("import", actor))
        return TakenView("checkout", "config", ONE)
