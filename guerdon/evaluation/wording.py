"""Numbers as people read them: as many decimals as their uncertainty leaves a meaning to."""

from __future__ import annotations

import math
from collections.abc import Iterable

MINUS = "\N{MINUS SIGN}"
_MOST = 4  # decimals


def decimals(half_width: float) -> int:
    """How many decimals show two significant digits of an interval's half width; 2 where it has none."""
    if not half_width > 0 or not math.isfinite(half_width):
        return 2
    return min(_MOST, max(0, 1 - math.floor(math.log10(half_width))))


def decimals_between(low: float, high: float) -> int:
    """Those of the half width of a difference's interval, and more where an end that is not 0 would be written as 0."""
    places = decimals((high - low) / 2)
    while places < _MOST and any(end != 0 and round(end, places) == 0 for end in (low, high)):
        places += 1
    return places


def decimals_for(intervals: Iterable[tuple[float, float]]) -> int:
    """The decimals of a whole row of (low, high): those of its median interval."""
    widths = sorted((high - low) / 2 for low, high in intervals if high > low)
    return decimals(widths[len(widths) // 2]) if widths else 2


def number(value: float, places: int = 2) -> str:
    """A number with a true minus sign and commas between thousands; never "−0"."""
    text = f"{abs(value):,.{places}f}"
    negative = value < 0 and any(digit in "123456789" for digit in text)
    return f"{MINUS}{text}" if negative else text


def signed(value: float, places: int = 2) -> str:
    """A difference: as `number`, with a plus sign where it is positive."""
    text = number(value, places)
    return f"+{text}" if value > 0 and any(digit in "123456789" for digit in text) else text


def between(low: float, high: float, places: int = 2) -> str:
    """An interval of differences in brackets."""
    return f"[{signed(low, places)}, {signed(high, places)}]"


def short(value: float) -> str:
    """A number of unknown scale in four significant digits."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    size = math.floor(math.log10(abs(value)))
    if -3 <= size < 6:
        text = number(value, max(0, 3 - size))
        return text.rstrip("0").rstrip(".") if "." in text else text
    mantissa = number(value / 10.0**size, 1)
    return f"{mantissa.removesuffix('.0')}e{size}".replace("-", MINUS)


def probability(p: float) -> str:
    """A p-value; below 0.001 only that."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def listed(words: Iterable[str]) -> str:
    """Words in a sentence: a, b and c."""
    *most, last = list(words) or [""]
    return f"{', '.join(most)} and {last}" if most else last
