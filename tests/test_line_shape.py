"""How a line is spelled around its values."""

import json

from hypothesis import given
from hypothesis import strategies as st

from billing_pipeline.sources.line_shape import LineShape, Slot, shape_of, usual_shapes

NESTED = b'{"a": 1, "b":{"c":"x","d":true}, "e":null}\r\n'
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.dictionaries(st.text(max_size=3), inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=6,
)


class TestShape:
    def test_has_the_text_between_values_and_where_they_lie(self) -> None:
        assert shape_of(NESTED) == LineShape(
            literals=(b'{"a": ', b', "b":{"c":"', b'","d":', b'}, "e":', b"}\r\n"),
            slots=(Slot(("a",), False), Slot(("b", "c"), True), Slot(("b", "d"), False), Slot(("e",), False)),
            lengths=(1, 1, 4, 4),
        )

    def test_is_none_of_what_cannot_be_read_by_position(self) -> None:
        for line in (
            b'{"a":1}',
            b"{}\n",
            b"[1]\n",
            b"1\n",
            b'{"a":[1]}\n',
            b'{"a":{"b":[]}}\n',
            b'{"a":1,"b":{ }}\n',
            b'{"a":1,"a":2}\n',
            b'{"a":{"b":1,"b":1}}\n',
            b'{"a":"\\n"}\n',
            b'{"\\u0061":1}\n',
            '{"a":"é"}\n'.encode(),
            b'\xef\xbb\xbf{"a":1}\n',
            b'{"a":1,}\n',
            b'{"a":1} x\n',
            b'{"a":01}\n',
            b"",
        ):
            assert shape_of(line) is None, line

    @given(st.dictionaries(st.text(max_size=3), VALUES, max_size=4), st.sampled_from([(",", ":"), (", ", ": ")]))
    def test_and_values_make_the_line_again(self, fields: dict[str, object], separators: tuple[str, str]) -> None:
        line = json.dumps(fields, separators=separators).encode() + b"\n"
        shape = shape_of(line)
        if shape is None:
            return
        rest, values = line, []
        for literal, slot, length in zip(shape.literals, shape.slots, shape.lengths, strict=False):
            assert rest.startswith(literal)
            values.append((slot, rest[len(literal) : len(literal) + length]))
            rest = rest[len(literal) + length :]
        assert rest == shape.literals[-1]
        for slot, text in values:
            value: object = fields
            for key in slot.keys:
                assert isinstance(value, dict)
                value = value[key]
            assert json.loads(b'"' + text + b'"' if slot.is_text else text) == value


class TestUsualShapes:
    def test_are_the_most_frequent_first_with_the_lengths_that_values_have_most(self) -> None:
        lines = [b'{"a":1}\n', b'{"b":22}\n', b'{"b":1}\n', b'{"b":33}\n', b"[]\n"]
        first, second = usual_shapes(lines)
        assert (first.slots, first.lengths) == ((Slot(("b",), False),), (2,))
        assert (second.slots, second.lengths) == ((Slot(("a",), False),), (1,))
