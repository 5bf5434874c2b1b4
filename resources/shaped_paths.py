"""Find the endpoint templates of request paths by position, many at once. The bulk form of `endpoints.endpoint_of`.

Paths of ordinary characters and usual lengths alone; others are left to somebody else. Not here: where paths begin (shaped_lines).
"""

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from billing_pipeline.records import UNMATCHED_ENDPOINT
from resources.byte_windows import Bytes, ByteWindows, Mask, Places, array_of_texts, begin_with, lowest_bit

# Of a path, of a path behind the text before its parameter, and of a query.
LONGEST_PART = 64
_LONGEST_TEMPLATE = 64
_QUESTION, _SLASH, _DOT = b"?/."
# A template with one parameter, a whole segment without a converter; one that ends in everything below a folder.
_ONE_SEGMENT = re.compile(r"([^{}]*/)\{[A-Za-z_]\w*\}((?:/[^{}]*)?)")
_ALL_BELOW = re.compile(r"([^{}]*/)\{[A-Za-z_]\w*:path\}")


@dataclass(frozen=True, slots=True)
class Routes:
    """Templates by their numbers, in the order in which they are tried.

    `whole`: paths; `around`: the text before a segment -> the texts after it, which exclude each other; `below`: folders.
    `doubtful`: texts before the first parameter of templates of other kinds.
    """

    names: pa.Array
    whole: tuple[tuple[bytes, int], ...]
    around: tuple[tuple[bytes, tuple[tuple[bytes, int], ...]], ...]
    below: tuple[tuple[bytes, int], ...]
    doubtful: tuple[bytes, ...]

    @property
    def unmatched(self) -> int:
        """Return the number of no template."""
        return len(self.names) - 1


@lru_cache
def routes_of(templates: tuple[str, ...]) -> Routes | None:
    """Return the routes; None where a template is longer than usual or says something of dots or beyond ASCII."""
    whole: list[tuple[bytes, int]] = []
    around: dict[bytes, dict[bytes, int]] = {}
    below: list[tuple[bytes, int]] = []
    doubtful: list[bytes] = []
    for number, template in enumerate(templates):
        if len(template) > _LONGEST_TEMPLATE or not template.isascii() or "/." in template:
            return None
        if "{" not in template and "}" not in template:
            whole.append((template.encode(), number))
        elif one_segment := _ONE_SEGMENT.fullmatch(template):
            before, after = (text.encode() for text in one_segment.groups())
            around.setdefault(before, {}).setdefault(after, number)
        elif all_below := _ALL_BELOW.fullmatch(template):
            below.append((all_below[1].encode(), number))
        else:
            doubtful.append(template.partition("{")[0].encode())
    return Routes(
        names=array_of_texts([*templates, UNMATCHED_ENDPOINT]),
        whole=tuple(whole),
        around=tuple((before, tuple(afters.items())) for before, afters in around.items()),
        below=tuple(below),
        doubtful=tuple(doubtful),
    )


def read_targets(windows: ByteWindows, at: Places, routes: Routes) -> tuple[Places, Places, Mask]:
    """Return of the request targets at `at`, a path and perhaps a query: their lengths, numbers of templates, which are sure.

    A target whose end is not seen is not sure, and its length says nothing.
    """
    found = np.full(len(at), routes.unmatched)
    lengths, sure = np.zeros(len(at), dtype=np.int64), np.ones(len(at), dtype=bool)
    is_left = np.ones(len(at), dtype=bool)
    for before, afters in routes.around:
        begins = windows.spelled_at(at, before)
        # Everything at once where it can be: rows that are picked out are copied.
        rows = slice(None) if begins.all() else np.flatnonzero(begins)
        lengths[rows], numbers, of_these = _around_a_segment(windows, at[rows], len(before), afters, routes.unmatched)
        found[rows] = np.minimum(found[rows], numbers)
        sure[rows] &= of_these
        is_left &= ~begins
    left = np.flatnonzero(is_left)
    if len(left):
        lengths[left] = lowest_bit(windows.bits(at[left], LONGEST_PART, _is_not_plain)[0])
        sure[left] = (lengths[left] < LONGEST_PART) & (windows.bytes_at(at[left]) == _SLASH)
    for template, number in routes.whole:
        rows = np.flatnonzero(lengths == len(template))
        if len(rows):
            fits = rows[windows.spelled_at(at[rows], template)]
            found[fits] = np.minimum(found[fits], number)
    for folder, number in routes.below:
        rows = np.flatnonzero(windows.spelled_at(at, folder))
        if len(rows):
            found[rows] = np.minimum(found[rows], number)
            sure[rows] &= ~_have_dot_segments(windows, at[rows] + (len(folder) - 1), lengths[rows])
    for before in routes.doubtful:
        sure &= ~windows.spelled_at(at, before)
    asked = np.flatnonzero(windows.bytes_at(at + lengths) == _QUESTION)
    if len(asked):
        lengths[asked] += harmless_lengths(windows, at[asked] + lengths[asked])
    return lengths, found, sure


def _around_a_segment(
    windows: ByteWindows, at: Places, skipped: int, afters: tuple[tuple[bytes, int], ...], unmatched: int
) -> tuple[Places, Places, Mask]:
    """Return the same of paths that go on with a parameter after `skipped` bytes."""
    segments = at + skipped
    ends, slashes = windows.bits(segments, LONGEST_PART, _is_not_plain, _is_slash)
    lengths = lowest_bit(ends)
    # Of a segment that starts with a dot the rule says more.
    sure: Mask = (lengths < LONGEST_PART) & (windows.bytes_at(segments) != _DOT)
    segment_lengths = np.minimum(lowest_bit(slashes), lengths)
    rest = np.where(segment_lengths > 0, lengths - segment_lengths, -1)
    words = windows.words_at(segments + segment_lengths, -(-max(len(after) for after, _ in afters) // 8) or 1)
    found = np.full(len(at), unmatched)
    for after, number in afters:
        fits = rest == len(after)
        if after:
            fits &= begin_with(words, after)
        found = np.where(fits, number, found)
    return lengths + skipped, found, sure


def _have_dot_segments(windows: ByteWindows, at: Places, lengths: Places) -> Mask:
    """Return which paths have perhaps a segment that starts with a dot in `lengths` bytes from `at` on."""
    slashes, dots = windows.bits(at, LONGEST_PART, _is_slash, _is_dot)
    return lowest_bit((slashes << np.uint64(1)) & dots) < lengths


def harmless_lengths(windows: ByteWindows, at: Places) -> Places:
    """Return how many characters from each place on can stand in any JSON text and mean nothing, up to LONGEST_PART."""
    return lowest_bit(windows.bits(at, LONGEST_PART, _is_not_harmless)[0])


def _is_slash(texts: Bytes) -> Mask:
    answer: Mask = texts == _SLASH
    return answer


def _is_dot(texts: Bytes) -> Mask:
    answer: Mask = texts == _DOT
    return answer


def _is_not_plain(texts: Bytes) -> Mask:
    """Of the characters of PLAIN_PATH, those that are common are plain: letters, digits, _ and &'()*+,-./:;"""
    plain = (texts | 0x20) - np.uint8(ord("a")) <= 25
    plain |= texts - np.uint8(ord("&")) <= ord(";") - ord("&")
    plain |= texts == ord("_")
    return np.logical_not(plain, out=plain)


def _is_not_harmless(texts: Bytes) -> Mask:
    """Harmless: printable ASCII without quotes, backslashes and opening brackets."""
    harmful: Mask = texts - np.uint8(0x20) > 0x7E - 0x20
    for byte in b'"\\[{':
        harmful |= texts == byte
    return harmful
