"""Whole columns of text are checked as the patterns say, text by text."""

import re
from collections.abc import Sequence

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_pipeline.sources.endpoints import PLAIN_PATH
from billing_pipeline.sources.profile import IDENTIFIER
from billing_pipeline.sources.request_sql import TextCheck
from resources import text_columns

# What each check stands for, as a pattern of one text.
PATTERNS = {
    TextCheck.IDENTIFIER: IDENTIFIER,
    TextCheck.PATH: rf"(?!.*/\.){PLAIN_PATH}",
    TextCheck.INSTANT: r"\d{4}-\d\d-\d\dT([01]\d|2[0-3]):\d\d:\d\d(\.\d{1,6})?Z",
}
TEXTS = {
    TextCheck.IDENTIFIER: st.from_regex(r"[A-Za-z0-9_-]{0,130}", fullmatch=True),
    TextCheck.PATH: st.from_regex(r"/[a-c./]*", fullmatch=True),
    TextCheck.INSTANT: st.from_regex(
        r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-3][0-9]:[0-9]{2}:[0-9]{2}(\.[0-9]{0,7})?Z", fullmatch=True
    ),
}


def matching(check: TextCheck, texts: Sequence[str]) -> list[bool]:
    pattern = re.compile(PATTERNS[check], re.ASCII | re.DOTALL)
    return [pattern.fullmatch(text) is not None for text in texts]


def passing(check: TextCheck, texts: Sequence[str], kind: pa.DataType, parts: int = 1) -> list[bool]:
    array = pa.array(["before", *texts], kind)[1:]
    size = max(1, -(-len(texts) // parts))
    column = pa.chunked_array([array[start : start + size] for start in range(0, len(texts), size)], kind)
    return [bool(value) for value in text_columns.passes(column, check)]


@st.composite
def columns(draw: st.DrawFn) -> tuple[TextCheck, list[str]]:
    """A check and texts, most of which pass, some with one character of another kind."""
    check = draw(st.sampled_from(list(TextCheck)))
    texts = []
    for text in draw(st.lists(TEXTS[check], max_size=12)):
        place = draw(st.integers(0, len(text)))
        odd = draw(st.sampled_from(["", "", "", *map(chr, range(128)), "\xe9", "\u0663", "\u2028"]))
        texts.append(text[:place] + odd + text[place + draw(st.integers(0, 1)) :])
    return check, texts


class TestPasses:
    @given(made=columns(), kind=st.sampled_from([pa.string(), pa.large_string()]), parts=st.integers(1, 3))
    def test_says_of_each_text_what_the_pattern_says(
        self, made: tuple[TextCheck, list[str]], kind: pa.DataType, parts: int
    ) -> None:
        check, texts = made
        assert passing(check, texts, kind, parts) == matching(check, texts)

    @pytest.mark.parametrize("check", TextCheck)
    @pytest.mark.parametrize("before", ["", "a", "/", "/a", "/a/", "2026-03-01T1"])
    @pytest.mark.parametrize("after", ["", "b", "0:20:30Z"])
    def test_knows_every_character(self, check: TextCheck, before: str, after: str) -> None:
        texts = [f"{before}{chr(code)}{after}" for code in range(0x180)]
        assert passing(check, texts, pa.string()) == matching(check, texts)

    @pytest.mark.parametrize("length", [1, 127, 128, 129])
    def test_bounds_the_length_of_an_identifier(self, length: int) -> None:
        assert passing(TextCheck.IDENTIFIER, ["a" * length], pa.string()) == [length <= 128]

    def test_sees_what_lies_where_its_pieces_meet(self, monkeypatch: pytest.MonkeyPatch) -> None:
        texts = ["/a/.b", "/abc", "/a%c", "/", "/..", "/a.b/.", "/.", "/a"]
        for piece in range(1, 12):
            monkeypatch.setattr(text_columns, "_PIECE", piece)
            assert passing(TextCheck.PATH, texts, pa.string()) == matching(TextCheck.PATH, texts)

    def test_takes_a_path_of_each_text_alone(self) -> None:
        assert passing(TextCheck.PATH, ["/a/", ".b", "/"], pa.string()) == [True, False, True]


class TestUnquoted:
    def test_takes_text_out_of_its_quotes_and_tells_what_has_none(self) -> None:
        tokens = ['"a"', "12", '""', "", '"', '"a', 'a"', "true", '"a b"', "null"]
        texts, in_quotes = text_columns.unquoted(pa.chunked_array([pa.array(tokens), pa.array([], pa.string())]))
        assert list(in_quotes) == [len(token) >= 2 and token[0] == token[-1] == '"' for token in tokens]
        assert [text for text, fits in zip(texts.to_pylist(), in_quotes, strict=True) if fits] == ["a", "", "a b"]
