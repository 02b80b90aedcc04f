"""Where a number must lie: above, below, or between two. No I/O."""

from math import isfinite
from typing import Annotated, Self

from pydantic import Field, model_validator

from rollbackd.syntax.units import Spec


class Bounds(Spec):
    """At least one of them; the bounds themselves lie outside, those of `between` inside."""

    above: float | None = None
    below: float | None = None
    between: Annotated[tuple[float, ...], Field(min_length=2, max_length=2)] | None = None
    """The smallest and the largest value that will do."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        given = [self.above, self.below, *(self.between or ())]
        if all(value is None for value in given):
            raise ValueError("nothing says which value is right; give `above`, `below` or `between`")
        if any(value is not None and not isfinite(value) for value in given):
            raise ValueError("a bound is a finite number; write it like 0")
        if self.between is not None and self.between[0] > self.between[1]:
            raise ValueError("`between` has the larger value first; write [SMALLEST, LARGEST]")
        if self.above is not None and self.below is not None and self.above >= self.below:
            raise ValueError("no value is above `above` and below `below`; correct one of them")
        return self

    def wrong(self, value: float) -> str:
        """What is wanted of a value that does not fit; empty when it does."""
        if self.above is not None and not value > self.above:
            return f"wants more than {self.above:g}"
        if self.below is not None and not value < self.below:
            return f"wants less than {self.below:g}"
        if self.between is not None and not self.between[0] <= value <= self.between[1]:
            return f"wants {self.between[0]:g} to {self.between[1]:g}"
        return ""
