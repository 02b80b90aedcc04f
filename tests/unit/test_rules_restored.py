"""What a layer holds in the middle of a restore by hand is no state, so it never becomes a good one."""

from pathlib import Path

from rollbackd.signals.state_watcher import StateWatcher
from tests.unit.house import V1, V2
from tests.unit.test_state_watcher import MINUTE, Watch


async def test_a_half_restored_layer_is_no_state(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    layers = {"shop": watch.factory.build(watch.service)}
    answers: list[str] = []

    async def between(service: str) -> str:
        assert service == "shop"
        return answers.pop(0) if answers else ""

    watch.state_watcher = StateWatcher(watch.read_model, layers, watch.clock, MINUTE, between)
    watch.deploy(V1)
    await watch.look()
    watch.deploy(V2)
    for told in (["config: a snapshot is being restored"], ["", "config: a snapshot is being restored"]):
        answers[:] = told
        assert await watch.look() is None
        assert watch.state_watcher.problems == {"shop": "config: a snapshot is being restored"}
    assert watch.changes == [("v1", "")]
    await watch.look()
    assert watch.changes == [("v1", ""), ("v2", "")]
    assert watch.state_watcher.problems == {}
