"""Whether what the traffic is to go to is well: it must answer several times in a row, at its own address."""

from collections.abc import Awaitable, Callable
from datetime import timedelta

from rollbackd.adapter import AdapterError, Place
from rollbackd_adapters.web import Question, accepted, ask, words_of

_ASK = timedelta(seconds=10)


def asked_at(url: str, place: Place, limit: timedelta) -> Callable[[], Awaitable[None]]:
    """What asks a URL, and raises AdapterError where the answer is no 2xx."""

    async def asked() -> None:
        accepted(await ask(Question(url=url), place, words_of(place), min(_ASK, limit)), place)

    return asked


async def must_be_healthy(
    name: str, asked: Callable[[], Awaitable[None]], place: Place, *, times: int, every: timedelta
) -> None:
    """Ask so many times.

    :raises AdapterError: not permanent, one answer was not good; the traffic stays where it is.
    """
    for number in range(1, times + 1):
        if number > 1:
            await place.clock.sleep(every)
        try:
            await asked()
        except AdapterError as error:
            text = f"{name} is not healthy, so the traffic stays where it is ({number} of {times}): {error}"
            raise AdapterError(text, permanent=False, evidence=error.evidence) from error
