"""A service made of small programs: two layers, a gate around them, and a log of all that was done to them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollbackd.model import Release, State
from tests.contract.worlds import script

LAYERS = ("config", "code")


@dataclass
class Shop:
    """Two layers whose release is a file's content, a gate around them, and a log of all that was done."""

    root: Path
    name: str = "shop"
    wait: bool = False
    """`apply` of the first layer waits until it is let go."""
    asked: bool = False
    """Its gate is entered while people are asked."""

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        for layer in ("config", "code"):
            (self.root / layer).write_text("v2\n")

    @property
    def effects(self) -> list[str]:
        """What was done, in order."""
        log = self.root / "effects"
        return log.read_text().splitlines() if log.exists() else []

    @property
    def applying(self) -> bool:
        """Whether the first step's program is at work."""
        return (self.root / "applying").exists()

    def go(self) -> None:
        """Let it end."""
        (self.root / "go").touch()

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """Nobody can look at the layers: whoever does waits until the end of the block."""
        (self.root / "unseen").touch()
        yield
        (self.root / "unseen").unlink()

    def _layer(self, layer: str) -> dict[str, Any]:
        at = self.root / layer
        waits = [f"touch {self.root}/applying", f"until [ -e {self.root}/go ]; do sleep 0.02; done"]
        blocked = f"while [ -e {self.root}/unseen ]; do sleep 0.02; done"
        apply = [
            *(waits if self.wait and layer == "config" else ()),
            f'echo "$ROLLBACKD_AFTER" > {at}.new',
            f"mv {at}.new {at}",
            f'echo "{layer} $ROLLBACKD_AFTER" >> {self.root}/effects',
        ]
        return {
            "adapter": "command",
            "current": [script(self.root / f"bin/{layer}-current", blocked, f"read it < {at}", 'echo "$it"')],
            "releases": [script(self.root / "bin/releases", "echo v2", "echo v1", "echo v0")],
            "apply": [script(self.root / f"bin/{layer}-apply", *apply)],
            "timeout": "30s",
        }

    def _gate(self) -> dict[str, Any]:
        flag, log = self.root / "gate", self.root / "effects"
        return {
            "adapter": "command",
            "inside": [script(self.root / "bin/inside", f"test -e {flag}")],
            "enter": "asked" if self.asked else "steps",
            "enter_by": [script(self.root / "bin/enter", f": > {flag}", f"echo enter >> {log}")],
            "leave_by": [script(self.root / "bin/leave", f"rm {flag}", f"echo leave >> {log}")],
            "timeout": "30s",
        }

    def service(self) -> dict[str, Any]:
        """Its part of the configuration."""
        well = script(self.root / "bin/well", *(f'read it < {self.root / one} && [ "$it" = v1 ]' for one in LAYERS))
        return {
            "name": self.name,
            "match": {"service": self.name},
            "bake": "1h",
            "layers": {"gate": self._gate(), **{layer: self._layer(layer) for layer in LAYERS}},
            "plans": {"default": {"within": ["gate"], "steps": list(LAYERS)}},
            "checks": {"well": {"command": [well]}},
            "verify": {"gate": ["well"], "settle": "0s", "every": "100ms", "passes": 1, "checks": ["well"]},
        }

    @property
    def history(self) -> list[State]:
        """What ran here; after going back to v1 there is still something to go back to."""
        return [State({layer: Release(release) for layer in LAYERS}) for release in ("v0", "v1", "v2")]
