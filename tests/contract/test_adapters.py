"""The adapters that come with rollbackd keep the contract, on their real components."""

from pathlib import Path

import pytest

from rollbackd.testing import AdapterContract, BracketContract, BracketWorld, StepContract, World
from tests.contract.worlds import CommandWorld, GitCheckoutWorld, GitRevertWorld, MaintenanceWorld, RestartWorld


@pytest.mark.needs("git")
class TestGitCheckout(AdapterContract):
    def make_world(self, path: Path) -> World:
        return GitCheckoutWorld(path)


@pytest.mark.needs("git")
class TestGitRevert(AdapterContract):
    def make_world(self, path: Path) -> World:
        return GitRevertWorld(path)


class TestCommand(AdapterContract):
    def make_world(self, path: Path) -> World:
        return CommandWorld(path)


class TestCommandThatTellsItsProgress(AdapterContract):
    def make_world(self, path: Path) -> World:
        return CommandWorld(path, progress=True)


class TestCommandWithoutReleases(StepContract):
    def make_world(self, path: Path) -> World:
        return RestartWorld(path)


class TestCommandAsBracket(BracketContract):
    def make_world(self, path: Path) -> BracketWorld:
        return MaintenanceWorld(path)
