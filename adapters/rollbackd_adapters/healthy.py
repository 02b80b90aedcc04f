"""Whether what the traffic is to go to is well: it must answer several times in a row, at its own address."""

from collections.abc import Mapping
from datetime import timedelta

from rollbackd.adapter import AdapterError, Place
from rollbackd_adapters.web import Question, accepted, ask, words_of

_ASK = timedelta(seconds=10)


async def must_be_healthy(
    name: str, urls: Mapping[str, str], place: Place, *, times: int, every: timedelta, limit: timedelta
) -> None:
    """Ask so many times; nothing is asked where there is no URL of that name.

    :raises AdapterError: not permanent, one answer was not good; the traffic stays where it is.
    """
    url = urls.get(name)
    if url is None:
        return
    for number in range(1, times + 1):
        if number > 1:
            await place.clock.sleep(every)
        try:
            accepted(await ask(Question(url=url), place, words_of(place), min(_ASK, limit)), place)
        except AdapterError as error:
            text = f"{name} is not healthy, so the traffic stays where it is ({number} of {times}): {error}"
            raise AdapterError(text, permanent=False, evidence=error.evidence) from error
