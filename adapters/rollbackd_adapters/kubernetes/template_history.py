"""The templates that a workload has had, one file each in the layer's scratch, so that the cluster's own history limit
cannot take what one could go back to.

A template may hold secrets in its variables: the directory and its files are for the daemon's user alone.
"""

import contextlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from rollbackd_adapters.kubernetes.client import Object
from rollbackd_adapters.kubernetes.templates import Template, content_id, is_template, template_id
from rollbackd_adapters.traces import write_facts


class KnownTemplate(NamedTuple):
    """A template, and what is known of its past."""

    template: Template
    created: datetime | None
    revision: str = ""
    config: Mapping[str, Object] = MappingProxyType({})
    """What the ConfigMaps hold that go back with it, by their names."""

    @property
    def id(self) -> str:
        """The id of its release."""
        own = template_id(self.template)
        return own if not self.config else content_id({"template": own, "config": dict(self.config)})

    @property
    def parts(self) -> dict[str, str]:
        """The same, part by part: a change of several cannot be made at one instant."""
        return {"": template_id(self.template), **{name: content_id(held) for name, held in self.config.items()}}


class TemplateHistory:
    """The templates of one layer."""

    def __init__(self, scratch: Path) -> None:
        self._directory = scratch / "templates"

    def remember(self, seen: Iterable[KnownTemplate], now: datetime) -> None:
        """Keep those that are not kept yet. :raises AdapterError: not permanent, one could not be written."""
        for known in seen:
            path = self._directory / f"{known.id}.json"
            if not path.exists():
                kept = {"created": (known.created or now).timestamp(), "revision": known.revision}
                write_facts(path, {"template": known.template, "config": dict(known.config), **kept})

    def forget(self, keep: int, spare: Collection[str]) -> list[str]:
        """Drop the oldest beyond so many, without those to spare; their names."""
        old = [path for path in self._files()[keep:] if path.stem not in spare]
        for path in old:
            path.unlink(missing_ok=True)
        return [path.stem for path in old]

    def recall(self) -> list[KnownTemplate]:
        """All that can be read, newest first."""
        return list(self._read())

    def _read(self) -> Iterator[KnownTemplate]:
        for path in self._files():
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
                data: dict[str, Any] = json.loads(path.read_bytes())
                if is_template(data["template"]):
                    created = datetime.fromtimestamp(float(data["created"]), UTC)
                    known = KnownTemplate(data["template"], created, str(data["revision"]), data.get("config", {}))
                    if known.id == path.stem:
                        yield known

    def _files(self) -> list[Path]:
        return sorted(self._directory.glob("[0-9a-f]*.json"), key=_changed, reverse=True)


def _changed(path: Path) -> float:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return 0.0
