"""Durations and sizes, as people write and read them."""

from __future__ import annotations

import pytest

from restore_fetch.units import parse_duration, parse_size, show_duration, show_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("90", 90.0),
        ("90s", 90.0),
        ("10m", 600.0),
        ("2h", 7200.0),
        ("1d", 86400.0),
        ("0.2s", 0.2),
        (".5m", 30.0),
        ("1.5h", 5400.0),
        ("250ms", 0.25),
        (" 10 M ", 600.0),
        ("3650d", 315360000.0),
    ],
)
def test_a_duration_is_read(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "s",
        "-1",
        "-1s",
        "+1s",
        "1e3",
        "1s2",
        "1h30m",
        "nan",
        "inf",
        "1,5s",
        "1 week",
        "0x10",
        "\N{ARABIC-INDIC DIGIT ONE}s",
        "1..2s",
        "3651d",
        "9" * 400,
        "1.2.3",
    ],
)
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1048576", 1048576),
        ("1b", 1),
        ("512KiB", 524288),
        ("20MiB", 20 * 2**20),
        ("1.5GiB", 3 * 2**29),
        ("2TiB", 2**41),
        ("50MB", 50_000_000),
        ("1kB", 1000),
        ("1 gib", 2**30),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_a_size_is_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "KiB",
        "-1",
        "1K",
        "1M",
        "1XiB",
        "1e6",
        "1 000",
        "nan",
        "9223372036854775808",
        "8388608TiB",
        "9" * 5000,
        "9" * 400 + ".0",
    ],
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError):
        parse_size(text)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5, "0s"),
        (0, "0s"),
        (45.4, "45s"),
        (59.6, "1m00s"),
        (605, "10m05s"),
        (3599.7, "1h00m"),
        (7200, "2h00m"),
        (86399, "23h59m"),
        (86400 * 3 + 4 * 3600, "3d04h"),
    ],
)
def test_a_duration_is_shown(seconds, shown):
    assert show_duration(seconds) == shown


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (20 * 2**20, "20.0 MiB"),
        (1.5 * 2**30, "1.5 GiB"),
        (2**50, "1024.0 TiB"),
    ],
)
def test_a_size_is_shown(size, shown):
    assert show_size(size) == shown
