"""Code in a git repository: a work tree is taken back to an earlier commit, or a branch gets its content back.

Uses the `git` program, 2.36 or newer (https://git-scm.com/docs). Releases are trees, so that two commits with the same
content are one release, and a commit that restores an old tree *is* that release.

- `strategy: checkout` saves what is uncommitted under `refs/rollbackd/<key>/saved` (a stash: `git stash apply` brings
  it back), then detaches HEAD at the newest commit that has the target's tree. Branches stay where they are; whoever
  comes back to where a branch was left is on it again. With `paths` only those go back, and HEAD stays. With
  `restore_from` a repository that is damaged is cloned anew.
- `strategy: revert` puts one commit with the target's tree on top of the remote branch and pushes it. History is not
  rewritten, nothing can conflict, and no work tree is touched.

The repository's hooks do not run: they are part of what is rolled back, and nothing limits their time. Filters of git's
own configuration do, so that files in Git LFS are fetched before a work tree moves and lie in it afterwards. Submodules
are not followed; update them in `then`. Nobody is ever asked for a password: credentials come from git's own helpers
and from ssh's agent and keys.
"""

import os
from pathlib import Path
from typing import ClassVar

from rollbackd.adapter import Needs, Place, Settings
from rollbackd.model import Release, Traits
from rollbackd_adapters.git.checkout import Checkout
from rollbackd_adapters.git.repo import check_id, resource_of
from rollbackd_adapters.git.settings import GitSettings
from rollbackd_adapters.git.snapshots import TagSnapshots

__all__ = ["GitAdapter", "GitSettings"]


class GitAdapter(TagSnapshots):
    """One repository as a layer, with its snapshots."""

    settings_model: ClassVar[type[Settings]] = GitSettings
    traits = Traits(local=True)

    def __init__(self, settings: GitSettings, place: Place) -> None:
        super().__init__(settings, place)
        branch = f"git-branch:{settings.remote}/{settings.branch} {os.path.realpath(settings.repo)}"
        whole = resource_of(settings) if settings.strategy == "checkout" else branch
        self.resource = " ".join((whole, *settings.paths))
        """With `paths`, another layer may have the rest; the lock is that of the repository all the same."""
        repo = Path(os.path.realpath(settings.repo))
        self._places = (repo, settings.repo)
        """The repository, which may be named by a link."""
        moves = tuple(one / part for one in self._places for part in settings.paths or ("",))
        self.needs = Needs(writes=(repo.parent if settings.restore_from else repo,), moves=moves)

    async def note(self, key: str) -> str:
        return await self._step.note(key) if isinstance(self._step, Checkout) else ""

    async def read(self, release: Release, path: Path) -> str:
        tree = await self._step.tree_of(Release(check_id(release)))
        repo = next(one for one in self._places if path.is_relative_to(one))
        name = f"{tree}:{path.relative_to(repo)}"
        (there,) = await self._repo.objects("%(objecttype)", [name])
        return await self._repo.call("cat-file", "blob", name) if tree and there == "blob" else ""
