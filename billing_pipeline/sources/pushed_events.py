"""Cut a pushed body into the lines of a delivered file: JSON array or JSON lines -> JSON lines and their number. Pure.

No event is judged, and none is changed: lines stay byte for byte, an element of an array keeps its text, on one line. What a
line says is judged when the file is read, where a bad one is refused by its position. Errors hold nothing of the body.
Not here: keeping the file (resources/request_receipts).
"""

import codecs
import json
import re
from collections.abc import Iterator

MOST_EVENTS = 1_000

_INK = re.compile(rb"\S")
_SPACE = re.compile(r"[ \t\r\n]*")
# Numbers are not worked out: neither their size nor their digits matter here.
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str)


class NoEventsError(Exception):
    """The body holds no event, or is an array that breaks off; `problem` says so without quoting it."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


class TooManyEventsError(Exception):
    """The body holds more than MOST_EVENTS events."""


def event_lines(body: bytes) -> tuple[bytes, int]:
    """Return the lines of the file that `body` becomes, and how many of them hold something.

    A body that begins with `[` is an array; every other one is lines, whatever they say.

    Raises:
        NoEventsError: it is empty, or an array that is no JSON.
        TooManyEventsError: it has more than MOST_EVENTS; the rest of it was not looked at.
    """
    begins = _INK.search(body, len(codecs.BOM_UTF8) if body.startswith(codecs.BOM_UTF8) else 0)
    if begins is not None and begins[0] == b"[":
        elements = list(_elements(body[begins.start() :]))
        content = "".join(f"{element}\n" for element in elements).encode()
        count = len(elements)
    else:
        content, count = body, _lines(body)
    if not count:
        raise NoEventsError("it holds no event")
    return content, count


def _lines(body: bytes) -> int:
    """Return the number of lines that are not blank."""
    count = position = 0
    while ink := _INK.search(body, position):
        count = _counted(count)
        end = body.find(b"\n", ink.start())
        if end < 0:
            break
        position = end
    return count


def _elements(body: bytes) -> Iterator[str]:
    """Yield the text of each element of the array that `body` begins with, without line ends.

    Between tokens these are blanks like others; inside a string they are no JSON.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise NoEventsError("it is an array that is not UTF-8") from None
    position = _past_space(text, 1)
    count = 0
    if text[position : position + 1] == "]":
        position += 1
    else:
        while True:
            end = _end_of_value(text, position, count)
            count = _counted(count)
            yield text[position:end].replace("\n", " ").replace("\r", " ")
            end = _past_space(text, end)
            position = _past_space(text, end + 1)
            if text[end : end + 1] == "]":
                break
            if text[end : end + 1] != ",":
                raise NoEventsError(f"it is an array that is no JSON behind event {count}")
    if position < len(text):
        raise NoEventsError("it goes on behind the end of its array; send one array, or one event a line")


def _end_of_value(text: str, position: int, before: int) -> int:
    try:
        return _DECODER.raw_decode(text, position)[1]
    except RecursionError:
        raise NoEventsError(f"event {before + 1} of its array has too many brackets in each other") from None
    except ValueError:
        raise NoEventsError(f"it is an array that is no JSON at event {before + 1}, or breaks off there") from None


def _counted(count: int) -> int:
    if count == MOST_EVENTS:
        raise TooManyEventsError
    return count + 1


def _past_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None
    return match.end()
