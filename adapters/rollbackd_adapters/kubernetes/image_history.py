"""The digests of images that ran, in one file of the layer's scratch: a tag may lead elsewhere by the time that one
goes back to it.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

from pydantic import BaseModel

from rollbackd_adapters.kubernetes.templates import Template, images
from rollbackd_adapters.traces import write_facts

_SHOWN = 19
"""Characters of a digest that people are shown: `sha256:` and 12 digits."""
SeenImage = tuple[str, str]
"""An image as a template names it, and the digest that ran."""


class _Known(BaseModel):
    """The file."""

    ran: dict[str, dict[str, SeenImage]] = {}
    """What the containers of each release ran first, by their names."""
    last: dict[str, str] = {}
    """Where each tag led last."""


class ImageHistory:
    """The digests of one layer."""

    def __init__(self, scratch: Path) -> None:
        self._path = scratch / "images.json"

    def remember(self, release: str, ran: Mapping[str, SeenImage]) -> None:
        """Keep what the containers of a release run, by their names. What they ran first stays.

        :raises AdapterError: not permanent, it could not be written.
        """
        known = self._read()
        own = {**ran, **known.ran.get(release, {})}
        made = _Known(ran={**known.ran, release: own}, last={**known.last, **dict(ran.values())})
        if ran and made != known:
            write_facts(self._path, made.model_dump())

    def forget(self, releases: Collection[str]) -> None:
        """Drop releases that are not gone back to any more, and the images that no other one has."""
        known = self._read()
        rest = {release: ran for release, ran in known.ran.items() if release not in releases}
        named = {image for ran in rest.values() for image, _ in ran.values()}
        if rest != known.ran:
            last = {image: digest for image, digest in known.last.items() if image in named}
            write_facts(self._path, _Known(ran=rest, last=last).model_dump())

    def digests(self, release: str) -> dict[str, str]:
        """What its containers ran, by their names; those that are not known are left out."""
        return {name: digest for name, (_, digest) in self._read().ran.get(release, {}).items()}

    def moved(self, release: str, template: Template) -> list[str]:
        """A sentence for each tag of a template that has led elsewhere since."""
        ran, last = self.digests(release), self._read().last
        return [
            f"the tag of {image} has moved: it was {ran[name][:_SHOWN]} and led to {last[image][:_SHOWN]} since; "
            "`pin: true` goes back by digest"
            for name, image in images(template).items()
            if name in ran and last.get(image, ran[name]) != ran[name]
        ]

    def _read(self) -> _Known:
        try:
            return _Known.model_validate_json(self._path.read_bytes())
        except (OSError, ValueError):  # none yet, or a damaged one: what runs is seen anew
            return _Known()
