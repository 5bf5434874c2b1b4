"""Read a page in Prometheus' text format: bytes -> series with exact values. Pure.

Values are Decimal as written: most exporters print 64-bit floats, and a caller that needs integers says which it trusts.
Comments, types and histograms' structure are not looked at. Not here: what a metric means (xray_outputs).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from billing_pipeline.errors import BillingError

_LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*\s*=\s*"(?:[^"\\\n]|\\.)*"'
_LINE = re.compile(
    rf"\s*(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{{\s*(?P<labels>(?:{_LABEL}\s*,\s*)*(?:{_LABEL})?)\s*\}})?"
    r"\s*(?P<value>\S+)(?:\s+(?P<timestamp>-?[0-9]+))?\s*",
    re.ASCII,
)
_PAIR = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\\n]|\\.)*)"', re.ASCII)
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n", '"': '"', "\\": "\\"}


class PrometheusTextError(BillingError):
    """A page that is not in Prometheus' text format, or is cut off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line: `value` as written, NaN and infinities among them; `line_number` is 1-based."""

    name: str
    labels: Mapping[str, str]
    value: Decimal
    line_number: int


def parse_page(body: bytes) -> tuple[Series, ...]:
    """Return the series of a page, in its order; one that stands there twice is there twice.

    Raises:
        PrometheusTextError: a line is no series and no comment, or the last one has no line end. No text of it is repeated.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise _unreadable("it is not UTF-8") from None
    if text and not text.endswith("\n"):
        raise _unreadable("its last line has no end, so it may be cut off")
    series = []
    for line_number, line in enumerate(text.split("\n"), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            series.append(_series(line, line_number))
    return tuple(series)


def _series(line: str, line_number: int) -> Series:
    match = _LINE.fullmatch(line)
    if match is None:
        raise _unreadable(f"line {line_number} is neither a series nor a comment")
    try:
        value = Decimal(match["value"])
    except InvalidOperation:
        raise _unreadable(f"the value in line {line_number} is no number") from None
    pairs = _PAIR.findall(match["labels"] or "")
    labels = {name: _ESCAPE.sub(lambda found: _ESCAPED.get(found[1], found[0]), text) for name, text in pairs}
    if len(labels) != len(pairs):
        raise _unreadable(f"line {line_number} names a label twice")
    return Series(name=match["name"], labels=labels, value=value, line_number=line_number)


def _unreadable(problem: str) -> PrometheusTextError:
    return PrometheusTextError(
        f"a page of metrics cannot be read: {problem}",
        bill="nothing of it was taken; counters are cumulative, so the next page that is read brings its traffic",
        fix="open the exporter's address in a browser; it must answer with metrics in Prometheus' text format",
    )
