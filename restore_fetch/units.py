"""Durations and sizes as people write them, and as they are shown."""

from __future__ import annotations

import math
import re

_NUMBER = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-z]*)\s*\Z")
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {
    "": 1,
    "b": 1,
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgtp", start=1)},
    **{f"{prefix}b": 1000**power for power, prefix in enumerate("kmgtp", start=1)},
}
_LONGEST_SECONDS = 10 * 365 * 86400.0


def parse_duration(text: str) -> float:
    """Seconds from `90`, `90s`, `10m`, `2h`, `1d` or a fraction such as `0.2s`.

    Raises:
        ValueError: It is not a duration, or longer than ten years.
    """
    match = _NUMBER.match(text)
    if match is None or match[2].lower() not in _SECONDS:
        raise ValueError(f"{text!r} is not a duration: write seconds, or 90s, 10m, 2h, 1d")
    seconds = float(match[1]) * _SECONDS[match[2].lower()]
    if not math.isfinite(seconds) or seconds > _LONGEST_SECONDS:
        raise ValueError(f"{text!r} is longer than ten years")
    return seconds


def parse_size(text: str) -> int:
    """Bytes from `1048576`, `512KiB`, `20MiB`, `1.5GiB` or `50MB`.

    Raises:
        ValueError: It is not a size.
    """
    match = _NUMBER.match(text)
    if match is None or match[2].lower() not in _BYTES:
        raise ValueError(f"{text!r} is not a size: write bytes, or 512KiB, 20MiB, 1.5GiB, 50MB")
    size = (
        float(match[1]) * _BYTES[match[2].lower()] if "." in match[1] else int(match[1]) * _BYTES[match[2].lower()]
    )
    if size >= 2**63:
        raise ValueError(f"{text!r} is larger than any file can be")
    return int(size)


def show_duration(seconds: float) -> str:
    """A duration for people: `45s`, `10m05s`, `2h00m`, `3d04h`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def show_size(size: float) -> str:
    """A size for people, in binary units: `512 B`, `20.0 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")
