"""What is pushed by, and what a remote's no means. No I/O."""

from dataclasses import dataclass

from rollbackd.system.spawner import Finished

PUSH = ("push", "--porcelain", "--no-verify", "--no-follow-tags", "--recurse-submodules=no")


@dataclass(frozen=True, slots=True)
class Rejection:
    """The remote does not take it."""

    why: str
    """In its own words."""
    permanent: bool
    """False: somebody else works on that ref just now."""


def rejection(push: Finished) -> Rejection | None:
    """What a push that failed says of it; None when that is something else."""
    said = push.stdout.decode(errors="replace")
    line = next((line for line in said.splitlines() if "rejected]" in line), "")
    if not line:
        return None
    passing = "failed to update ref" in said or "lock" in said
    return Rejection(line.rpartition("\t")[2], permanent=not passing)
