"""Numbers and instants that are read from words are those that the rule reads, or are left to it."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from json import loads

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from billing_pipeline.records import Reason
from billing_pipeline.sources.timestamps import parse_instant
from resources.byte_windows import ByteWindows
from resources.packed_values import INSTANT_LENGTHS, are_digits, decimals, instants

AFTER_ALL = datetime(9999, 1, 1, tzinfo=UTC)
TOKEN = st.from_regex(r"[0-9]{1,9}(\.[0-9]{1,7})?", fullmatch=True) | st.text(
    "0123456789.-+eE", min_size=1, max_size=10
)
PLACES = st.sampled_from([0, 3, 6])
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
INSTANT = st.integers(631_152_000, 7_573_651_200).map(
    lambda seconds: f"{EPOCH + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}"
)
FRACTION = st.just("") | st.integers(0, 999_999).map(lambda number: f".{number}")


def number_of(token: str, places: int) -> tuple[int, bool]:
    """Return what `decimals` makes of a token, from the middle of a buffer."""
    before = b" " * 16
    windows = ByteWindows(before + token.encode() + b'","' + b" " * 32)
    length = np.array([len(token)])
    point = np.array([token.find(".") if "." in token else len(token)])
    values, sure = decimals(windows, np.array([len(before)]), length, point, places=places)
    return int(values[0]), bool(sure[0])


class TestDecimals:
    @given(TOKEN, PLACES)
    @example("12345678", 0)
    @example("99999.999", 3)
    @example("0.000001", 6)
    @example("-1", 0)
    def test_are_exact_where_they_are_sure(self, token: str, places: int) -> None:
        value, is_sure = number_of(token, places)
        if is_sure:
            assert Decimal(value) == loads(token, parse_float=Decimal, parse_int=Decimal) * 10**places

    @given(st.integers(0, 99_999_999), st.integers(0, 6))
    def test_are_sure_up_to_eight_digits(self, number: int, fraction: int) -> None:
        token = f"{Decimal(number).scaleb(-fraction):f}"
        is_short = len(token.replace(".", "")) <= 8
        assert number_of(token, 6) == (number * 10 ** (6 - fraction), True) or not is_short


class TestDigits:
    def test_are_the_ten_at_each_place_of_a_word(self) -> None:
        for place in range(8):
            words = np.frombuffer(
                b"".join(b"1" * place + bytes((byte,)) + b"9" * (7 - place) for byte in range(256)), dtype="<u8"
            )
            assert np.flatnonzero(are_digits(words)).tolist() == list(range(ord("0"), ord("9") + 1))


class TestInstants:
    @given(st.lists(INSTANT, min_size=1, max_size=4), FRACTION, st.integers(0, 26), st.characters(max_codepoint=127))
    @example(["2026-02-28T23:59:59", "2024-02-29T00:00:00"], ".5", 0, "2")
    @example(["2026-03-01T10:20:30"], ".123456", 11, "2")
    def test_are_those_of_the_rule_where_they_are_sure(
        self, texts: list[str], fraction: str, place: int, character: str
    ) -> None:
        good = [text + fraction + "Z" for text in texts]
        length = len(good[0])
        odd = [text[: place % length] + character + text[place % length + 1 :] for text in good]
        at = np.arange(2 * len(good)) * length
        windows = ByteWindows("".join(good + odd).encode() + b" " * 32)
        assert length in INSTANT_LENGTHS
        values, sure = instants(windows, at, length)
        for number, text in enumerate(good + odd):
            expected = parse_instant(text, layout="rfc3339", as_of=AFTER_ALL)
            if sure[number]:
                assert isinstance(expected, datetime)
                assert EPOCH + timedelta(microseconds=int(values[number])) == expected
            elif number < len(good):
                assert isinstance(expected, Reason) or expected.year >= 2200
