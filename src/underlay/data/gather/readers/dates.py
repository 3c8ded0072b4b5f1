"""Dates as sources write them, to the day, as ISO 8601."""

import re
from datetime import UTC, date, datetime

_ISO = re.compile(r"\s*([0-9]{4})(?:-([0-9][0-9])(?:-([0-9][0-9]))?)?(?![0-9-])")
_PDF = re.compile(r"(?:D:)?([0-9]{4})([0-9][0-9])?([0-9][0-9])?")


def iso_date(value: object) -> str:
    """The day, month or year that a field names; empty where it names none.

    Knows ISO 8601, dates and times, and seconds or milliseconds since 1970.
    """
    if isinstance(value, date):
        return value.isoformat()[:10]
    if isinstance(value, bool) or value is None:
        return ""
    if isinstance(value, int | float):
        if 10**8 < value < 10**14:  # smaller numbers are years; the largest are milliseconds
            return datetime.fromtimestamp(value if value < 10**11 else value / 1000, UTC).date().isoformat()
        return _checked(str(int(value)), None, None) if value in range(1000, 2101) else ""
    if isinstance(value, str) and (match := _ISO.match(value)):
        return _checked(*match.groups())
    return ""


def pdf_date(value: str) -> str:
    """The day that a PDF's metadata names (`D:20230401120000Z`)."""
    match = _PDF.match(value.strip())
    return _checked(*match.groups()) if match else ""


def _checked(year: str, month: str | None, day: str | None) -> str:
    try:
        date(int(year), int(month or 1), int(day or 1))
    except ValueError:
        return ""
    return "-".join(part for part in (year, month, day) if part)
