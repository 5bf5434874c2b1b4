"""Equal rows have equal hashes, others have others, however their columns are encoded and cut."""

import itertools
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from resources.row_hashes import hashes_of

TEXT = (
    st.none()
    | st.text(max_size=20)
    | st.sampled_from(["", "\0", "\0\0", "a", "a\0", "12345678", "12345678\0", "1234567890123456"])
)
NUMBER = st.none() | st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, -1, 1])
FLAG = st.none() | st.booleans()
ROWS = st.lists(st.tuples(TEXT, TEXT, NUMBER, FLAG), min_size=1, max_size=30)
KINDS = (pa.string(), pa.dictionary(pa.int32(), pa.string()), pa.int64(), pa.bool_())


def columns_of(
    rows: list[tuple[object, ...]], cuts: list[int], kinds: tuple[pa.DataType, ...]
) -> list[pa.ChunkedArray]:
    """Return the rows as columns, cut into chunks that begin at `cuts`, some of them slices of a longer array."""
    ends = sorted({0, len(rows), *(cut % len(rows) for cut in cuts)})
    columns = []
    for number, kind in enumerate(kinds):
        whole = pa.array([row[number] for row in [*rows, *rows]], kind)
        columns.append(
            pa.chunked_array([whole.slice(first, end - first) for first, end in itertools.pairwise(ends)], kind)
        )
    return columns


class TestHashes:
    @given(ROWS, st.lists(st.integers(0, 99), max_size=3))
    def test_are_equal_where_rows_are(self, rows: list[tuple[object, ...]], cuts: list[int]) -> None:
        hashes = hashes_of(columns_of(rows, cuts, KINDS)).tolist()
        assert (
            len({(row, value) for row, value in zip(rows, hashes, strict=True)}) == len(set(rows)) == len(set(hashes))
        )

    @given(ROWS, st.lists(st.integers(0, 99), max_size=3))
    def test_do_not_depend_on_chunks_and_dictionaries(self, rows: list[tuple[object, ...]], cuts: list[int]) -> None:
        plain = tuple(kind.value_type if pa.types.is_dictionary(kind) else kind for kind in KINDS)
        assert (hashes_of(columns_of(rows, [], KINDS)) == hashes_of(columns_of(rows, cuts, plain))).all()

    def test_tell_instants_and_small_integers_apart(self) -> None:
        start = datetime(2026, 3, 1, tzinfo=UTC).replace(tzinfo=None)
        instants = pa.chunked_array([pa.array([start + timedelta(microseconds=number) for number in range(1_000)])])
        codes = pa.chunked_array([pa.array(range(1_000), pa.int16())])
        for column in (instants, codes):
            assert len(np.unique(hashes_of([column]))) == 1_000

    def test_depend_on_the_order_of_columns(self) -> None:
        one, two = (pa.chunked_array([pa.array([text])]) for text in ("a", "b"))
        assert hashes_of([one, two]) != hashes_of([two, one])

    def test_spread_over_all_bits(self) -> None:
        texts = pa.chunked_array([pa.array([f"request-{number:08}" for number in range(100_000)])])
        hashes = hashes_of([texts])
        for shift in range(64):
            assert abs(int(((hashes >> np.uint64(shift)) & np.uint64(1)).sum()) - 50_000) < 1_000
        assert len(np.unique(hashes)) == 100_000
        assert len(np.unique(hashes & np.uint64(0xFFFFFFFF))) > 99_990 - 5
