"""Which service a signal belongs to. No I/O."""

from collections.abc import Iterable, Mapping


class ServiceIndex:
    """Finds the service whose `match` is a subset of some labels; the most specific wins.

    Looks up one hash a distinct set of label names, so ten thousand services cost what one does.
    """

    def __init__(self, matches: Iterable[tuple[str, Mapping[str, str]]]) -> None:
        tables: dict[tuple[str, ...], dict[tuple[str, ...], str]] = {}
        for service, match in matches:
            names = tuple(sorted(match))
            tables.setdefault(names, {})[tuple(match[name] for name in names)] = service
        self._tables = sorted(tables.items(), key=lambda item: -len(item[0]))

    def find(self, labels: Mapping[str, str]) -> str | None:
        """The service's name, or None when no `match` fits."""
        for names, table in self._tables:
            service = table.get(tuple([labels.get(name, "") for name in names]))
            if service is not None:
                return service
        return None
