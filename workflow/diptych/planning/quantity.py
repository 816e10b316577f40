"""Numbers for people: at most three digits, a decimal prefix, a unit."""

import math

PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")


def quantity(number: float, unit: str = "") -> str:
    """A number with at most three digits and a decimal prefix; `-` for 0.

    >>> quantity(5.2288e9, "B"), quantity(40960), quantity(0)
    ('5.23 GB', '41.0 k', '-')
    """
    if number < 0.5:
        return "-"
    power = min(len(PREFIXES) - 1, int(math.log10(number) // 3))
    if round(number / 1000**power) >= 1000:
        power += 1
    scaled = number / 1000**power
    digits = f"{scaled:.{2 - min(2, len(str(int(scaled))) - 1)}f}" if power else f"{scaled:.0f}"
    return f"{digits} {PREFIXES[power]}{unit}".rstrip()
