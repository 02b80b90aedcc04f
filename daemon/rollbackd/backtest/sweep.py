"""Which other settings are played: `error_rate=1%..20%`, `error_rate=1%,5%,10%`. No I/O."""

import re
from dataclasses import dataclass
from datetime import timedelta

from pydantic import ValidationError

from rollbackd.rules.score import ScoreSpec
from rollbackd.rules.spec import QueryWhen, Rule
from rollbackd.syntax.units import format_duration, parse_duration, parse_ratio

_NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?")
_STEPS = 8
_MOST = 50


@dataclass(frozen=True, slots=True)
class Sweep:
    """One setting of a pack, or the threshold of a rule by the rule's name, with the values to play."""

    setting: str
    values: tuple[float, ...]
    """Numbers; of a duration its seconds."""
    unit: str
    """`%`, `s` for durations, or empty."""

    @classmethod
    def parse(cls, text: str) -> "Sweep":
        """The sweep as it is written on a command line. :raises ValueError: with what to write instead."""
        name, equals, values = text.partition("=")
        if not equals or not name or not values:
            raise ValueError(f"--sweep {text}: write it like error_rate=1%..20%, or error_rate=1%,5%,10%")
        words, steps, range_ = values.split(","), _STEPS, values.partition("..")
        if range_[1]:
            last, slash, count = range_[2].partition("/")
            if slash and not (count.isdigit() and 2 <= int(count) <= _MOST):
                raise ValueError(f"--sweep {text}: behind the / is how many values, 2 to {_MOST}")
            words, steps = [range_[0], last], int(count) if slash else _STEPS
        try:
            read = [_read(word.strip()) for word in words]
        except ValueError as error:
            raise ValueError(f"--sweep {text}: {error}") from error
        units = {unit for _, unit in read}
        if len(units) > 1 or len(read) > _MOST:
            raise ValueError(f"--sweep {text}: give values of one kind, at most {_MOST}, such as 1%..20%")
        found = [value for value, _ in read]
        if range_[1]:
            if not found[0] < found[1]:
                raise ValueError(f"--sweep {text}: the first value is not below the last")
            found = [found[0] + (found[1] - found[0]) * step / (steps - 1) for step in range(steps)]
            found = [found[0], *(float(f"{value:.2g}") for value in found[1:-1]), found[-1]]
        return cls(name, tuple(dict.fromkeys(found)), units.pop())

    def written(self, value: float) -> str | float:
        """A value as the configuration has it."""
        return self.shown(value) if self.unit else value

    def shown(self, value: float) -> str:
        if self.unit == "s":
            return format_duration(timedelta(seconds=round(value)))
        return f"{value * 100:.4g}%" if self.unit == "%" else f"{value:.6g}"

    def fits(self, rule: Rule) -> bool:
        """Whether the rule has one threshold that can be moved."""
        leaf = rule.when
        return isinstance(leaf, QueryWhen) and leaf.against is None and self.unit != "s"

    def moved(self, rule: Rule, value: float) -> Rule:
        """The rule with another threshold; of a score, with another `around`, or for a plain number `threshold`.

        :raises ValueError: the value cannot be one.
        """
        if not self.fits(rule):
            return rule
        leaf = rule.when
        assert isinstance(leaf, QueryWhen)
        if leaf.score is not None:
            left_out = {"good", "bad"} if self.unit else set()
            kept = leaf.score.model_dump(exclude=left_out, exclude_unset=True)
            try:
                score = ScoreSpec.model_validate({**kept, "around" if self.unit else "threshold": value})
            except ValidationError as error:
                raise ValueError(f"{self.shown(value)} cannot be: {error.errors()[0]['msg']}") from error
            return rule.model_copy(update={"when": leaf.model_copy(update={"score": score})})
        key = "above" if leaf.above is not None else "below"
        return rule.model_copy(update={"when": leaf.model_copy(update={key: value})})


def _read(word: str) -> tuple[float, str]:
    if word.endswith("%"):
        return parse_ratio(word), "%"
    if _NUMBER.fullmatch(word):
        return float(word), ""
    return parse_duration(word).total_seconds(), "s"
