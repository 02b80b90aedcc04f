"""Contents that a partial clone has left at its remote: they are fetched before a work tree moves, or nothing moves.

Git itself fetches them in the middle of a checkout. https://git-scm.com/docs/partial-clone
"""

from rollbackd.system.spawner import Lock
from rollbackd_adapters.git.repo import Repo, failure


async def fetch(repo: Repo, commit: str, lock: Lock) -> None:
    """Have git fetch what differs between the index and the commit. :raises AdapterError: it cannot be had."""
    if not (await repo.ask("config", "--get-regexp", r"^remote\..*\.promisor$")).ok:
        return
    counted = ("diff-index", "--cached", "--shortstat", "--no-renames", "--no-ext-diff", "--ignore-submodules=all")
    answer = await repo.reach(*counted, commit, "--", *repo.settings.paths, lock=lock, timeout=repo.timeout)
    if not answer.ok:
        raise failure(repo.path, answer)
