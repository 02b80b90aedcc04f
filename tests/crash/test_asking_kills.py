"""Killed while people are asked: the question stands or is carried out once, and no answer that was taken is lost."""

import asyncio
import os
import pwd
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from rollbackd import facts
from rollbackd.model import Outcome
from rollbackd.syntax.units import format_duration
from tests.crash.lives import Zygote, until, zygote
from tests.crash.shop import LAYERS, Shop
from tests.crash.world import World, alert, of_kind
from tests.fakes.receiving import serving
from tests.fakes.slack import SlackFake
from tests.servers import free_port

AT_ONCE = 3
MORE = 3
"""Tried beyond the boundaries of an undisturbed run, since their number may differ a little."""
JOURNAL = "journal."
"""Right before and right after each unit is on disk; what a look's programs are killed in is seen elsewhere."""
BOTH = ("ann approve", "root approve")
WRITTEN = "SELECT count(*) >= {} FROM facts WHERE kind = '{}'"
BACK = ["enter", "config v1", "code v1", "leave"]


class _Story:
    """One service that asks before it goes back, and the people who answer, over all lives of the daemon."""

    def __init__(
        self, root: Path, name: str, mother: Zygote, slack: SlackFake, url: str, *, asked: bool = False
    ) -> None:
        self.shop = Shop(root / "shop", name, asked=asked)
        self.world = World(root, mother, slack, f"{url}{slack.path}")
        self._port = free_port()
        self._alert = alert(name)
        self._said = set[str]()
        self._taken = set[str]()
        """What was answered with 200: nobody says it again."""

    @property
    def incident(self) -> str:
        return f"{self.shop.name}-1"

    async def begin(self, **row: Any) -> None:
        """Ann has a token, everybody else is who runs this test; `row` is the policy's."""
        world = self.world
        world.configure([self.shop.service()], policy=[{"action": "ask", **row}])
        secret = world.root / "token"
        secret.write_text("the secret of ann")
        secret.chmod(0o600)
        config = yaml.safe_load(world.config.read_text())
        config["daemon"]["listen"] = f"127.0.0.1:{self._port}"
        config["daemon"]["tokens"] = [{"name": "ann", "role": "operator", "token": {"file": str(secret)}}]
        world.config.write_text(yaml.safe_dump(config, sort_keys=False))
        await world.deployed({self.shop.name: self.shop.history})

    async def live(self, *script: str, told: str, left: bool = False, **hook: Any) -> bool:
        """A life from the alert, through what people say, until people were told; False when it was killed first.

        `left`: they speak once its gate was entered, and it goes on until that was left.
        """
        world = self.world
        life = await world.start(**hook)
        if await world.serving():
            await self._sick()
            if script and await world.has("Entered" if left else "Opened"):
                for word in script:
                    await self._say(word)
        heard = await world.told(told) and (not left or await until(self._left, "what was entered is left"))
        code = await life.stop()
        assert code in {0, -9}
        assert heard or code
        return code == 0

    async def _sick(self) -> None:
        """Alertmanager sends again what was not answered with 200, and only that."""
        if "alert" not in self._taken and await self.world.post(self._alert):
            self._taken.add("alert")

    async def _say(self, word: str) -> None:
        """`ann approve`: again when nobody answered it, never when somebody did."""
        if word in self._taken:
            return
        again = word in self._said
        self._said.add(word)
        who, _, what = word.partition(" ")
        path = f"/api/v1/incidents/{self.incident}/{what}"
        try:
            status, answer = await (self._by_token(path) if who == "ann" else self.world.ask("POST", path, {}))
        except (aiohttp.ClientError, OSError):
            await until(self._dead, "who does not answer is dead")
            return
        # What was written before the kill, and not answered, has become a rollback or an end by now.
        assert status == 200 or (status == 409 and again), answer
        if status == 200:
            self._taken.add(word)

    async def _by_token(self, path: str) -> tuple[int, Any]:
        await until(self._listens, "it listens, or is dead")  # its socket, which others ask, may be there first
        headers = {"Authorization": "Bearer the secret of ann"}
        url = f"http://127.0.0.1:{self._port}{path}"
        async with aiohttp.ClientSession(headers=headers) as session, session.post(url, json={}) as answer:
            return answer.status, await answer.json()

    async def _left(self) -> bool:
        count = "SELECT count(*) FROM facts WHERE kind = '{}'"
        return self.world.dead or self.world.counted(count.format("Entering")) <= self.world.counted(
            count.format("Left")
        )

    async def _listens(self) -> bool:
        if self.world.dead:
            return True
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return False
        writer.close()
        return True

    async def _dead(self) -> bool:
        return self.world.dead

    def say_again(self) -> None:
        """To what is asked from now on."""
        self._said.clear()
        self._taken -= set(BOTH)

    async def check(self, outcome: Outcome, *people: str, rises: int = 1, asked: int = 1) -> None:
        """What must be true at the end: so much was asked, these said yes, and it rose so often."""
        shop = self.shop
        assert shop.effects in ([BACK] if rises else [[], ["enter", "leave"]] if shop.asked else [[]])
        running = "v1\n" if rises else "v2\n"
        assert [(shop.root / layer).read_text() for layer in LAYERS] == [running] * 2
        assert not (shop.root / "gate").exists()
        records = await self.world.checked()
        for kind, count in ((facts.Opening, 1), (facts.Rising, rises), (facts.Risen, rises), (facts.Ended, 1)):
            assert len(of_kind(records, kind)) == count, kind
        assert [fact.acted for fact in of_kind(records, facts.Ended)] == [bool(rises)]
        assert len(of_kind(records, facts.Opened)) + len(of_kind(records, facts.AskedAgain)) == asked
        assert [fact.outcome for fact in of_kind(records, facts.Closed)] == [outcome]
        yes = Counter(one.actor for one in records if isinstance(one.fact, facts.Approved))
        assert yes == Counter(people)
        events = Counter(fact.event for fact in of_kind(records, facts.Told))
        assert events["asks"] == 1
        assert events["asked_again"] == asked - 1
        assert set((events - Counter(approved=asked - 1)).values()) == {1}, events


async def _world(stack: AsyncExitStack) -> tuple[SlackFake, str, Zygote]:
    slack = SlackFake()
    url = await stack.enter_async_context(serving(slack))
    return slack, url, await stack.enter_async_context(zygote())


def _me() -> str:
    return f"unix:{pwd.getpwuid(os.getuid()).pw_name}"


@pytest.mark.timeout(300)
async def test_killed_at_each_write_of_a_question_it_is_answered_once(tmp_path: Path) -> None:
    people = ("token:ann", _me())
    async with AsyncExitStack() as stack:
        slack, url, mother = await _world(stack)
        first = _Story(tmp_path / "0", "shop0", mother, slack, url)
        await first.begin(approvals=2, expires="10m")
        assert await first.live(*BOTH, told="recovered", names=str(tmp_path / "names"))
        await first.check(Outcome.RECOVERED, *people)
        names = (tmp_path / "names").read_text().split()
        before = [name for name in names[: names.index("runner.enter")] if name.startswith(JOURNAL)]
        print(f"{len(before)} writes until the first effect, of {Counter(names)}")
        killed = 0
        numbers = iter(range(1, len(before) + MORE + 1))

        async def worker(numbers: Iterator[int]) -> None:
            nonlocal killed
            for number in numbers:
                story = _Story(tmp_path / str(number), f"shop{number}", mother, slack, url)
                await story.begin(approvals=2, expires="10m")
                try:
                    if not await story.live(*BOTH, told="recovered", at=number, of=JOURNAL):
                        killed += 1
                        assert await story.live(*BOTH, told="recovered")
                    await story.check(Outcome.RECOVERED, *people)
                except AssertionError as error:
                    raise AssertionError(f"killed at write {number}: {error}\n{story.world.log}") from error

        async with asyncio.TaskGroup() as tasks:
            for _ in range(AT_ONCE):
                tasks.create_task(worker(numbers))
        assert slack.wrong == []
    assert killed >= len(before)


FREEZES = [
    (BOTH, "recovered", Outcome.RECOVERED, {"approvals": 2, "expires": "10m"}),
    (("root deny",), "declined", Outcome.DECLINED, {"approvals": 2, "expires": "10m"}),
    ((), "expired", Outcome.EXPIRED, {"expires": "1s"}),
]


@pytest.mark.timeout(300)
async def test_killed_at_each_write_what_is_entered_while_it_asks_is_entered_and_left_once(tmp_path: Path) -> None:
    """Said yes, said no, and nobody said anything; in each of them at each write, until the steps are like any others."""
    async with AsyncExitStack() as stack:
        slack, url, mother = await _world(stack)
        killed = 0

        async def story(name: str, case: Any, **hook: Any) -> bool:
            nonlocal killed
            script, told, outcome, row = case
            one = _Story(tmp_path / name, name, mother, slack, url, asked=True)
            await one.begin(**row)
            try:
                if not (survived := await one.live(*script, told=told, left=True, **hook)):
                    killed += 1
                    assert await one.live(*script, told=told, left=True)
                rises = int(outcome is Outcome.RECOVERED)
                await one.check(outcome, *(("token:ann", _me()) if rises else ()), rises=rises)
            except AssertionError as error:
                raise AssertionError(f"{name}: {error}\n{one.world.log}") from error
            return survived

        kills: list[tuple[str, Any, int]] = []
        for number, case in enumerate(FREEZES):
            names = tmp_path / f"names{number}"
            assert await story(f"calm{number}", case, names=str(names))
            heard = names.read_text().split()
            asked = heard[: heard.index("runner.apply")] if "runner.apply" in heard else heard
            writes = [name for name in asked if name.startswith(JOURNAL)]
            kills += [(f"shop{number}-{at}", case, at) for at in range(1, len(writes) + 1)]
        print(f"{len(kills)} writes")
        left = iter(kills)

        async def worker() -> None:
            for name, case, at in left:
                await story(name, case, at=at, of=JOURNAL)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(AT_ONCE):
                tasks.create_task(worker())
        assert slack.wrong == []
    assert killed >= len(kills) * 0.9, "nearly each of them was reached"


EXPIRES = timedelta(seconds=1)
SILENCE = [
    ("Opened", "roll_back", "recovered", Outcome.RECOVERED),
    ("Risen", "roll_back", "recovered", Outcome.RECOVERED),
    ("Planned", "roll_back", "recovered", Outcome.RECOVERED),
    ("Opened", "escalate", "expired", Outcome.EXPIRED),
    ("Closed", "escalate", "expired", Outcome.EXPIRED),
]


@pytest.mark.timeout(300)
async def test_a_question_that_nobody_answers_ends_once_whenever_it_is_killed(tmp_path: Path) -> None:
    """Also when it expires while the daemon is down."""
    async with AsyncExitStack() as stack:
        slack, url, mother = await _world(stack)

        async def _over(when: datetime) -> None:
            async def over() -> bool:
                return datetime.now(UTC) > when

            await until(over, "it expires while the daemon is down")

        async def tell(number: int, kind: str, otherwise: str, told: str, outcome: Outcome) -> None:
            story = _Story(tmp_path / str(number), f"shop{number}", mother, slack, url)
            await story.begin(expires=format_duration(EXPIRES), otherwise=otherwise)
            assert not await story.live(told=told, once=WRITTEN.format(1, kind))
            await _over(datetime.now(UTC) + EXPIRES)
            assert await story.live(told=told)
            await story.check(outcome, rises=int(outcome is Outcome.RECOVERED))

        async with asyncio.TaskGroup() as tasks:
            for number, case in enumerate(SILENCE):
                tasks.create_task(tell(number, *case))
        assert slack.wrong == []


@pytest.mark.timeout(300)
async def test_a_no_another_question_and_a_service_that_left_outlive_a_kill(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        slack, url, mother = await _world(stack)

        async def deny() -> None:
            story = _Story(tmp_path / "no", "no", mother, slack, url)
            await story.begin(approvals=2, expires="10m")
            script = ("ann approve", "root deny")
            assert not await story.live(*script, told="declined", once=WRITTEN.format(1, "Denied"))
            assert await story.live(*script, told="declined")
            await story.check(Outcome.DECLINED, "token:ann", rises=0)

        async def ask_again() -> None:
            """A fix was deployed while people thought: their yeses to what was before are void, also after the kill."""
            story = _Story(tmp_path / "again", "again", mother, slack, url)
            await story.begin(approvals=2, expires="10m")
            assert not await story.live(*BOTH, told="recovered", once=WRITTEN.format(1, "Opened"))
            for layer in LAYERS:
                (story.shop.root / layer).write_text("v0\n")
            assert not await story.live(*BOTH, told="recovered", once=WRITTEN.format(1, "AskedAgain"))
            story.say_again()
            assert await story.live(*BOTH, told="recovered")
            await story.check(Outcome.RECOVERED, *(("token:ann", _me()) * 2), asked=2)

        async def leave() -> None:
            """The service is taken out of the configuration while it is asked about."""
            story = _Story(tmp_path / "left", "left", mother, slack, url)
            await story.begin(expires="1s", otherwise="roll_back")
            assert not await story.live(told="declined", once=WRITTEN.format(1, "Opened"))
            config = yaml.safe_load(story.world.config.read_text())
            config["services"][0] |= {"name": "another", "match": {"service": "another"}}
            story.world.config.write_text(yaml.safe_dump(config, sort_keys=False))
            assert await story.live(told="declined")
            await story.check(Outcome.DECLINED, rises=0)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(deny())
            tasks.create_task(ask_again())
            tasks.create_task(leave())
        assert slack.wrong == []
