"""Read numbers and instants from the bytes of words, eight digits at once, for many rows. Exact, or left to somebody else.

Each function returns values and a mask of rows; where it is false the value says nothing.
Words are little-endian: the first character is the lowest byte. Not here: where the values stand (byte_windows).
"""

from datetime import date
from typing import Any

import numpy as np

from billing_pipeline.sources.timestamps import EARLIEST_EVENT
from resources.byte_windows import ByteWindows, Mask, Places, Words, word_of

# Instants without a fraction, and with one to six digits of one.
INSTANT_LENGTHS = (20, *range(22, 28))
_LAST_YEAR = 2199
_DIGITS = 8
_SEEN_BEFORE_END = 16


def _each(byte: int) -> np.uint64:
    """Return a word of equal bytes."""
    return np.uint64(byte * 0x0101010101010101)


_ZEROS, _LOW, _HIGH, _SIX = _each(ord("0")), _each(0x0F), _each(0xF0), _each(0x06)
# Index: how many bytes at the upper end of a word are kept.
_UPPER = np.array([(1 << 64) - (1 << (64 - 8 * kept)) for kept in range(_DIGITS + 1)], dtype=np.uint64)


def are_digits(words: Words) -> Mask:
    """Return which words are eight ASCII digits."""
    values = words ^ _ZEROS
    # A byte above nine has an upper half, or has one when six are added. A carry comes from a byte that has failed already.
    answer: Mask = ((values | (values + _SIX)) & _HIGH) == 0
    return answer


def eight_digits(words: Words) -> Places:
    """Return the numbers that words of eight ASCII digits spell."""
    found = words & _LOW
    found = (found * np.uint64(10) + (found >> np.uint64(8))) & np.uint64(0x00FF00FF00FF00FF)
    found = (found * np.uint64(100) + (found >> np.uint64(16))) & np.uint64(0x0000FFFF0000FFFF)
    found = (found * np.uint64(10_000) + (found >> np.uint64(32))) & np.uint64(0xFFFFFFFF)
    return found.view(np.int64)


def decimals(windows: ByteWindows, at: Places, lengths: Places, points: Places, *, places: int) -> tuple[Places, Mask]:
    """Return the JSON numbers of `lengths` characters at `at`, times ten to the power of `places`.

    `points`: how many characters are before the decimal point, `lengths` where there is none. Beyond doubt: one to eight
    digits, no sign, no exponent, no zero in front, and nothing below the last of `places`.
    """
    fraction = lengths - points
    has_point = fraction > 0
    digit_count = lengths - has_point
    fraction -= has_point
    sure: Mask = (digit_count - 1).view(np.uint64) < _DIGITS
    sure &= (points >= 1) & (fraction <= places)
    sure &= (fraction > 0) == has_point
    ends = at + lengths
    sure &= ends >= _SEEN_BEFORE_END
    before, upper = windows.words_at(np.maximum(ends - _SEEN_BEFORE_END, 0), 2)
    if has_point.any():
        # Digits before the point go one byte up, over it; what is further up is the fraction.
        kept = _UPPER[np.where(has_point, np.minimum(fraction, _DIGITS), _DIGITS)]
        upper = (upper & kept) | (((upper << np.uint64(8)) | (before >> np.uint64(56))) & ~kept)
    used = _UPPER[np.clip(digit_count, 0, _DIGITS)]
    digits = (upper & used) | (_ZEROS & ~used)
    sure &= are_digits(digits)
    sure &= (windows.bytes_at(at) != ord("0")) | (points == 1)
    powers = np.array([10 ** max(0, places - digits) for digits in range(_DIGITS + 1)])
    return eight_digits(digits) * powers[np.clip(fraction, 0, _DIGITS)], sure


def instants(windows: ByteWindows, at: Places, length: int) -> tuple[Places, Mask]:
    """Return the microseconds since 1970 of `2026-03-01T10:20:30Z`, or with up to six digits below the second.

    Beyond doubt: years from 1995 on, no second 60. `length` is one of INSTANT_LENGTHS.
    """
    first, middle, last = windows.words_at(at, 3)
    days, sure = _days(first, middle)
    sure &= _spelled(middle, b"\xff\xffT00:00")
    digits = length - INSTANT_LENGTHS[1] + 1
    sure &= _spelled(last, b":00Z" if digits < 0 else b":00.")
    hours, minutes, seconds = _pair(middle, 3), _pair(middle, 6), _pair(last, 1)
    sure &= (hours < 24) & (minutes < 60) & (seconds < 60)
    clock = (((days * 24 + hours) * 60 + minutes) * 60 + seconds) * 1_000_000
    if digits > 0:
        below = windows.words_at(at + len("2026-03-01T10:20:30."), 1)[0]
        sure &= (below >> np.uint64(8 * digits)) & np.uint64(0xFF) == ord("Z")
        kept = np.uint64((1 << 8 * digits) - 1)
        below = (below & kept) | (_ZEROS & ~kept)
        sure &= are_digits(below)
        clock += eight_digits(below) // 100
    return clock, sure


def _days(first: Words, middle: Words) -> tuple[Places, Mask]:
    """Return the days since 1970 of dates in the form `2026-03-01`, of which `middle` begins with the last two characters."""
    last = middle & np.uint64(0xFFFF)
    if len(first) > 1 and (first == first[0]).all() and (last == last[0]).all():
        # Files of one day are the usual ones.
        days, sure = _days(first[:1], last[:1])
        return np.broadcast_to(days, first.shape), np.repeat(sure, len(first))
    years, months, days = _pair(first, 0) * 100 + _pair(first, 2), _pair(first, 5), _pair(last, 0)
    sure = _spelled(first, b"0000-00-") & _spelled(last, b"00")
    sure &= (years >= EARLIEST_EVENT.year) & (years <= _LAST_YEAR) & (months >= 1) & (months <= 12)
    month = np.where(sure, (years - EARLIEST_EVENT.year) * 12 + months - 1, 0)
    sure &= (days >= 1) & (days <= _DAYS_OF_MONTH[month])
    return _FIRST_OF_MONTH[month] + days - 1, sure


def _spelled(words: Words, shape: bytes) -> Mask:
    """Return which words begin like `shape`, where a zero stands for any digit and 0xFF for anything."""
    digits = word_of(bytes(0xFF if byte == ord("0") else 0 for byte in shape))
    marks = word_of(bytes(0 if byte in (ord("0"), 0xFF) else 0xFF for byte in shape))
    answer: Mask = (words & marks) == (word_of(shape) & marks)
    answer &= are_digits((words & digits) | (_ZEROS & ~digits))
    return answer


def _pair(words: Words, first: int) -> Places:
    """Return the number of two digits at a byte of each word."""
    tens, ones = words >> np.uint64(8 * first), words >> np.uint64(8 * first + 8)
    return ((tens & np.uint64(0x0F)) * np.uint64(10) + (ones & np.uint64(0x0F))).view(np.int64)


def _month_starts() -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the day since 1970 on which each month begins, from January of the earliest year on, and one more."""
    months = [date(year, month, 1) for year in range(EARLIEST_EVENT.year, _LAST_YEAR + 1) for month in range(1, 13)]
    ordinals = [month.toordinal() for month in (*months, date(_LAST_YEAR + 1, 1, 1))]
    return np.array(ordinals, dtype=np.int64) - date(1970, 1, 1).toordinal()


_FIRST_OF_MONTH = _month_starts()
_DAYS_OF_MONTH = np.diff(_FIRST_OF_MONTH)
