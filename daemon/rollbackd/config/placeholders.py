"""Texts of the configuration in which `$name` stands for a value. No I/O."""

from collections.abc import Iterator, Mapping
from string import Template

from rollbackd.plugins import unknown


def wrong(text: str, known: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with the values that a text names."""
    template = Template(text)
    if not template.is_valid():
        yield "a $ stands for a value here; write $service, or $$ for a dollar"
        return
    for name in template.get_identifiers():
        if name not in known:
            yield unknown("value", name, known)
