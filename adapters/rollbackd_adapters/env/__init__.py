"""Switches in a file of environment variables: features degraded or switched back, versions of an index, modes.

It moves the values of the `names` in one file, which a shell, dotenv or systemd reads; what reads it is restarted by
another layer. A release is what those names are set to: two files that set the same are one release, however they are
written. Each content that is seen is remembered in the layer's scratch, so that it can be gone back to; a preset is a
release too, made of what is there now. The file is replaced by rename, and only the lines concerned differ; where the
rest is as it was when a content was seen, going back to it restores every byte.
"""

import asyncio
import contextlib
import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import ClassVar

from rollbackd.adapter import AdapterError, Needs, Place, Settings
from rollbackd.model import Change, Progress, Release, Traits
from rollbackd.system.boundary import boundary
from rollbackd.system.spawner import Lock, one_line
from rollbackd_adapters.base import StepAdapter
from rollbackd_adapters.env import file
from rollbackd_adapters.env.memory import ContentHistory, content_id, dumped, loaded
from rollbackd_adapters.env.settings import EnvSettings
from rollbackd_adapters.env.text import Content, EnvText, Unreadable, Value
from rollbackd_adapters.ids import check_own
from rollbackd_adapters.lacks import existing, hint
from rollbackd_adapters.threads import in_thread
from rollbackd_adapters.traces import Trace, named, progress_of

__all__ = ["EnvAdapter", "EnvSettings"]

_ID = re.compile(r"[0-9a-f]{16}")
_PRIVATE = re.compile(r"(?:^|_)(?:KEY|PASS|PWD|DSN|AUTH|SALT)$|PASSW|SECRET|TOKEN|CREDENTIAL", re.IGNORECASE)


class EnvAdapter(StepAdapter[EnvSettings]):
    """Some variables of one file, as a layer."""

    settings_model: ClassVar[type[Settings]] = EnvSettings
    traits = Traits(local=True)
    _unknown = ": what it set is not known here any more; use a preset"

    def __init__(self, settings: EnvSettings, place: Place) -> None:
        super().__init__(settings, place)
        file = Path(os.path.realpath(settings.file))
        self.resource = f"env:{file}"
        self.needs = Needs(writes=(settings.file.parent,), moves=(file,))
        """The directory: a file that is replaced by rename cannot be mounted writable by itself."""
        self._path = settings.file
        self._history = ContentHistory(place.scratch / "contents")

    async def current(self) -> Release:
        return self._release(await asyncio.to_thread(self._seen))

    async def releases(self) -> Sequence[Release]:
        return [release for release, _ in await asyncio.to_thread(self._known)]

    async def prune(self, spare: Collection[str] = (), last: int = 0) -> Sequence[str]:
        """Forget the oldest contents."""
        return await in_thread(self._forget, last or self._settings.keep, frozenset(spare))

    def _forget(self, keep: int, spare: frozenset[str]) -> list[str]:
        needed = spare | named(self._place.scratch, "before", "after")
        try:
            return self._history.forget(keep, needed, self._clock.now())
        except OSError as error:
            text = f"{self._history.directory}: old contents cannot be dropped: {hint(error)}"
            raise AdapterError(text, permanent=False) from error

    async def _present_id(self) -> str:
        return content_id((await asyncio.to_thread(self._read))[1].content)

    async def _move(self, change: Change, trace: Trace, _lock: Lock) -> None:
        if await in_thread(self._replace, change, trace) is Progress.SUPERSEDED:
            raise await self._superseded()

    def _replace(self, change: Change, trace: Trace) -> Progress:
        """Replace the file, unless somebody changed it after `_progress` looked.

        :returns: how far the change was.
        """
        seen, text = self._read()
        present = text.content
        if (progress := progress_of(trace, change, content_id(present))) is Progress.SUPERSEDED:
            return progress
        begun = trace.begun
        target = loaded(begun["target"]) if begun else self._target(change.after)
        if begun is None:
            self._remember(text)
            trace.intend(target=dumped(target))
        boundary("env.begun")
        try:
            changed = text.changed(target, self._history.layout(change.after.id))
        except Unreadable as error:
            raise AdapterError(f"{self._path}: {error}", permanent=True) from error
        if content_id(present) != change.after.id:
            file.replace(self._path, changed, seen)
        boundary("env.replaced")
        return progress

    async def _elsewhere(self) -> str:
        return f"{self._path} is neither where this rollback began nor where it goes: somebody else changed it"

    async def _problems(self) -> list[str]:
        return await asyncio.to_thread(self._blocked)

    def _blocked(self) -> list[str]:
        try:
            self._read()
            found = file.blocked(self._path)
        except AdapterError as error:
            return [str(error)]
        contents = self._history.directory
        scratch = existing(contents)
        if not os.access(scratch, os.W_OK | os.X_OK):
            found.append(f"{scratch}: rollbackd may not write there; give its user that right")
        elif contents.exists() and not contents.is_dir():
            found.append(f"{contents} is in the way of the directory where contents are remembered; remove it")
        return found

    def _check_id(self, release: Release) -> None:
        check_own(release, _ID, "a content; `rollbackd plan` lists them")

    # -- what there is --------------------------------------------------------------------------
    def _read(self) -> tuple[file.FileRead, EnvText]:
        seen = file.read(self._path)
        try:
            return seen, EnvText(seen.text, self._settings.syntax, self._settings.names)
        except Unreadable as error:
            raise AdapterError(f"{self._path}: {error}", permanent=False) from error

    def _seen(self) -> Content:
        """The content of the file now, which is remembered."""
        text = self._read()[1]
        self._remember(text)
        return text.content

    def _remember(self, text: EnvText) -> None:
        # A look must not fail for want of room in the scratch: `ready` tells of that, and this is tried at each look.
        with contextlib.suppress(OSError):
            self._history.remember(text.content, text.layout, self._clock.now())

    def _known(self) -> list[tuple[Release, Content]]:
        """What can be gone back to: what is there, the presets on top of it, and what was there, newest first."""
        present = self._read()[1].content
        found = {content_id(present): (self._release(present), present)}
        for preset in self._settings.presets:
            content = self._with(preset, present)
            name = content_id(content)
            names = (*(found[name][0].names if name in found else ()), preset)
            found[name] = (Release(name, self._label(content), names=names), content)
        for content, seen in self._history.recall(self._settings.names):
            name = content_id(content)
            found.setdefault(name, (Release(name, self._pairs(content), created=seen), content))
        return list(found.values())

    def _target(self, release: Release) -> Content:
        for known, content in self._known():
            if known.id == release.id:
                return content
        raise AdapterError(f"{one_line(release.name)}: what it set is not known here any more", permanent=True)

    def _with(self, preset: str, content: Content) -> Content:
        values = self._settings.presets[preset]
        return {**content, **{name: None if text is None else Value(text) for name, text in values.items()}}

    def _release(self, content: Content) -> Release:
        """A content as a release."""
        return Release(content_id(content), self._label(content))

    def _label(self, content: Content) -> str:
        """The presets that a content agrees with, the one that says most first; without any, what it sets."""
        name, presets = content_id(content), self._settings.presets
        agreeing = [each for each in presets if content_id(self._with(each, content)) == name]
        return ", ".join(sorted(agreeing, key=lambda each: -len(presets[each]))) or self._pairs(content)

    def _pairs(self, content: Content) -> str:
        """`NAME=value NAME=value` for people, without what looks like a secret."""
        pairs = [f"{name}={_shown(name, value)}" for name, value in content.items() if value is not None]
        return one_line(self._spawner.clean(" ".join(pairs))) or "none of them set"


def _shown(name: str, value: Value) -> str:
    return "[secret]" if _PRIVATE.search(name) and value.text else value.text
