"""The small real worlds as another host's layers, behind a real sshd on loopback."""

import getpass
from pathlib import Path
from typing import Any

from rollbackd.model import Release
from rollbackd.testing import BracketWorld, World, place
from rollbackd_adapters.remote import RemoteAdapter, RemoteSettings
from tests.sshd import Sshd

ME = getpass.getuser()
HERE, THERE, NOWHERE = f"{ME}@127.0.0.1", f"{ME}@127.0.0.2", f"{ME}@127.0.0.3"


def served(world: Any) -> dict[str, Any]:
    """A world's layer as the far side's configuration has it."""
    return dict(world.adapter()._settings.model_dump(mode="json", exclude_defaults=True))


class Over:
    """Another world's layer, reached over ssh. All else is asked of that world itself."""

    def __init__(self, path: Path, server: Sshd, inner: Any, traits: list[str]) -> None:
        self._near = path / "near"
        self._far = path / "far"
        self._server = server
        self.inner = inner
        self._traits = traits
        self._reach = self._serve()

    def _serve(self) -> dict[str, Any]:
        return self._server.serve(self._far, {"layer": served(self.inner)})

    def adapter(self) -> RemoteAdapter:
        settings = {**self._reach, "ssh": HERE, "traits": self._traits, "timeout": "20s"}
        return RemoteAdapter(RemoteSettings.model_validate(settings), place(self._near))


class RemoteWorld(Over, World):
    def present(self) -> str:
        return str(self.inner.present())

    def target(self) -> Release:
        return Release(self.inner.target().id)

    def moved_by_somebody(self) -> None:
        self.inner.moved_by_somebody()

    def finished(self) -> int | None:
        return self.inner.finished()  # type: ignore[no-any-return]

    def everything(self) -> object:
        return self.inner.everything()

    def break_it(self) -> None:
        self.inner.break_it()

    def hang(self) -> None:
        self.inner.hang()
        self._reach = self._serve()


class RemoteBracketWorld(Over, BracketWorld):
    def inside(self) -> bool:
        return bool(self.inner.inside())

    def crossings(self) -> int | None:
        return self.inner.crossings()  # type: ignore[no-any-return]
