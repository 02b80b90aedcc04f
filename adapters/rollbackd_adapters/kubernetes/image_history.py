"""The digests of images that ran, in one file of the layer's scratch: a tag may lead elsewhere by the time that one
goes back to it.
"""

import contextlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rollbackd_adapters.kubernetes.templates import Template, images
from rollbackd_adapters.traces import write_facts

_SHOWN = 19
"""Characters of a digest that people are shown: `sha256:` and 12 digits."""


class ImageHistory:
    """The digests of one layer."""

    def __init__(self, scratch: Path) -> None:
        self._path = scratch / "images.json"

    def remember(self, release: str, ran: Mapping[str, tuple[str, str]]) -> None:
        """Keep what the containers of a release ran first, and where each tag led last.

        :raises AdapterError: not permanent, it could not be written.
        """
        known = self._read()
        own = {name: digest for name, (_, digest) in ran.items()} | known["ran"].get(release, {})
        made = {
            "ran": {**known["ran"], release: own},
            "last": {**known["last"], **dict(ran.values())},
        }
        if ran and made != known:
            write_facts(self._path, made)

    def forget(self, releases: Collection[str]) -> None:
        """Drop releases that are not gone back to any more."""
        known = self._read()
        rest = {release: ran for release, ran in known["ran"].items() if release not in releases}
        if rest != known["ran"]:
            write_facts(self._path, {**known, "ran": rest})

    def digests(self, release: str) -> dict[str, str]:
        """What its containers ran, by their names; those that are not known are left out."""
        return dict(self._read()["ran"].get(release, {}))

    def moved(self, release: str, template: Template) -> list[str]:
        """A sentence for each tag of a template that has led elsewhere since."""
        known = self._read()
        ran = known["ran"].get(release, {})
        return [
            f"the tag of {image} has moved: it was {ran[name][:_SHOWN]} and led to {known['last'][image][:_SHOWN]} "
            "since; `pin: true` goes back by digest"
            for name, image in images(template).items()
            if name in ran and known["last"].get(image, ran[name]) != ran[name]
        ]

    def _read(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            data = json.loads(self._path.read_bytes())
            return {"ran": dict(data["ran"]), "last": dict(data["last"])}
        return {"ran": {}, "last": {}}
