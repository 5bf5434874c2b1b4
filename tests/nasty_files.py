"""Files as broken machines write them, drawn at random: each kind with what must become of it, and personal data inside.

A kind is made from a random generator, so that where it is cut, which byte is turned and what stands between differs from draw to
draw. `Taken`: accepted lines and refused ones by reason. `Refused`: nothing of the file is taken.
"""

import bz2
import gzip
import io
import json
import lzma
import random
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from billing_pipeline.records import Reason
from tests.request_files import API_REQUEST, AVRO_SCHEMA, api_line, avro_bytes, avro_fields, avro_request

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Each is found nowhere else, so that a hit is a leak.
PERSON = {
    "email": "nelly.quuxfield@example.net",
    "driver": "Nelly Quuxfield",
    "remote_addr": "203.0.113.188",
    "vin": "WVWZZZ1JZXW386777",
}
SECRETS = (*PERSON.values(), "quuxfield")


@dataclass(frozen=True, slots=True)
class Taken:
    """The file is read: so many lines are accepted, others refused by reason, and `blank` say nothing."""

    accepted: int
    refused: Mapping[str, int] = field(default_factory=dict)
    blank: int = 0


@dataclass(frozen=True, slots=True)
class Refused:
    """The file is refused as a whole, for one of these reasons."""

    reasons: tuple[Reason, ...]


Verdict = Taken | Refused
Kind = tuple[Callable[[random.Random], bytes], Verdict]
# More than are read one by one before anything else is tried.
LINES = 40


def refused(*reasons: Reason) -> Refused:
    return Refused(reasons)


def line(number: int, **changes: object) -> bytes:
    """Return a good line with a person in the fields that nobody reads."""
    return api_line(request_id=f"r-{number}", **{**PERSON, **changes})


def lines(count: int = LINES) -> bytes:
    return b"".join(line(number) for number in range(count))


def spelled(token: str | bytes, **where: object) -> bytes:
    """Return a line in which the field set to `...` in `where` is spelled as `token`."""
    raw = token if isinstance(token, bytes) else token.encode()
    return line(1, **{name: "@@" if value is ... else value for name, value in where.items()}).replace(b'"@@"', raw)


def among(chance: random.Random, bad: bytes, count: int = LINES) -> bytes:
    """Return good lines with `bad` somewhere among them."""
    good = [line(number) for number in range(count)]
    good.insert(chance.randrange(count), bad)
    return b"".join(good)


def one_bad(make: Callable[[random.Random], bytes], reason: str) -> Kind:
    return lambda chance: among(chance, make(chance)), Taken(LINES, {reason: 1})


def one_more(make: Callable[[random.Random], bytes]) -> Kind:
    return lambda chance: among(chance, make(chance)), Taken(LINES + 1)


def turned(chance: random.Random, content: bytes, first: int, last: int) -> bytes:
    """Return `content` with one bit turned in `content[first:last]`; `first` and `last` from the end where they are below 1."""
    place = chance.randrange(first % len(content), len(content) + last if last <= 0 else last)
    return content[:place] + bytes([content[place] ^ 1 << chance.randrange(8)]) + content[place + 1 :]


def pieces(chance: random.Random, content: bytes, count: int) -> list[bytes]:
    """Return `content` cut anywhere, also inside of lines."""
    places = sorted(chance.sample(range(1, len(content)), count - 1))
    return [content[start:end] for start, end in zip([0, *places], [*places, len(content)], strict=True)]


def cut(chance: random.Random, content: bytes, least: int = 1) -> bytes:
    return content[: chance.randrange(least, len(content))]


def noise(chance: random.Random, count: int = 40) -> bytes:
    """Return bytes that are no zeros and begin no archive."""
    return b"x" + bytes(chance.randrange(1, 256) for _ in range(count))


def checked_zstd(content: bytes) -> bytes:
    return zstd.compress(content, options={zstd.CompressionParameter.checksum_flag: 1})


def skippable(chance: random.Random) -> bytes:
    inside = noise(chance, chance.randrange(30))
    return struct.pack("<II", 0x184D2A50 + chance.randrange(16), len(inside)) + inside


def zipped(chance: random.Random) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("requests.jsonl", b"".join(line(number, at=chance.random()) for number in range(400)))
    return buffer.getvalue()


BAD_COMPRESSION = refused(Reason.BAD_COMPRESSION)
ARCHIVES: Mapping[str, Kind] = {
    "gzip cut off": (lambda chance: cut(chance, gzip.compress(lines()), 20), BAD_COMPRESSION),
    "gzip whose second member is cut off": (
        lambda chance: gzip.compress(lines(3)) + cut(chance, gzip.compress(lines()), 3), BAD_COMPRESSION),
    "gzip with garbage behind it": (lambda chance: gzip.compress(lines()) + noise(chance), BAD_COMPRESSION),
    "gzip with plain lines behind it": (lambda chance: gzip.compress(lines()) + lines(2), BAD_COMPRESSION),
    "gzip with zeros and then garbage": (
        lambda chance: gzip.compress(lines()) + bytes(chance.randrange(1, 600)) + noise(chance), BAD_COMPRESSION),
    "gzip with zeros behind it": (lambda chance: gzip.compress(lines()) + bytes(chance.randrange(1, 600)), Taken(LINES)),
    "gzip with a turned bit": (lambda chance: turned(chance, gzip.compress(lines()), 12, -8), BAD_COMPRESSION),
    "gzip with a wrong checksum": (lambda chance: turned(chance, gzip.compress(lines()), -8, -4), BAD_COMPRESSION),
    "gzip with a wrong length": (lambda chance: turned(chance, gzip.compress(lines()), -4, 0), BAD_COMPRESSION),
    "gzip members cut inside of lines": (
        lambda chance: b"".join(gzip.compress(piece) for piece in pieces(chance, lines(), 5)), Taken(LINES)),
    "gzip members with empty ones between": (
        lambda chance: gzip.compress(b"").join(gzip.compress(piece) for piece in pieces(chance, lines(), 3)), Taken(LINES)),
    "gzip of nothing": (lambda chance: gzip.compress(b"") * chance.randrange(1, 4), Taken(0)),
    "gzip in gzip": (lambda chance: gzip.compress(gzip.compress(lines())), refused(Reason.NESTED_COMPRESSION)),
    "gzip in zstd": (lambda chance: zstd.compress(gzip.compress(lines())), refused(Reason.NESTED_COMPRESSION)),
    "zstd frames cut inside of lines": (
        lambda chance: b"".join(zstd.compress(piece) for piece in pieces(chance, lines(), 5)), Taken(LINES)),
    "zstd frames with skippable ones between": (
        lambda chance: skippable(chance).join(zstd.compress(piece) for piece in pieces(chance, lines(), 3)), Taken(LINES)),
    "zstd cut off": (lambda chance: cut(chance, zstd.compress(lines()), 20), BAD_COMPRESSION),
    "zstd whose second frame is cut off": (
        lambda chance: zstd.compress(lines(3)) + cut(chance, zstd.compress(lines()), 6), BAD_COMPRESSION),
    "zstd with garbage behind it": (lambda chance: zstd.compress(lines()) + noise(chance), BAD_COMPRESSION),
    "zstd and then gzip": (lambda chance: zstd.compress(lines(3)) + gzip.compress(lines(3)), BAD_COMPRESSION),
    "zstd with a turned bit": (lambda chance: turned(chance, checked_zstd(lines()), 12, -1), BAD_COMPRESSION),
    "zstd of a skippable frame alone": (skippable, Taken(0)),
    "bzip2": (lambda chance: bz2.compress(b"".join(line(n, at=chance.random()) for n in range(300))), refused(Reason.BINARY)),
    "xz": (lambda chance: lzma.compress(b"".join(line(n, at=chance.random()) for n in range(300))), refused(Reason.BINARY)),
    "zip": (zipped, refused(Reason.BINARY)),
    "zlib without gzip": (
        lambda chance: zlib.compress(b"".join(line(n, at=chance.random()) for n in range(300))), refused(Reason.BINARY)),
}  # fmt: skip


def encoded(encoding: str, mark: bytes = b"") -> Kind:
    return lambda chance: mark + lines().decode().encode(encoding), refused(Reason.ENCODING)


def blanks(chance: random.Random) -> bytes:
    return b"".join(chance.choice([b"\n", b" \n", b"\t\r\n", b"  \t\n"]) for _ in range(7))


TEXTS: Mapping[str, Kind] = {
    "UTF-16 with a mark": encoded("utf-16"),
    "UTF-16, little end first, without a mark": encoded("utf-16-le"),
    "UTF-16, big end first, without a mark": encoded("utf-16-be"),
    "UTF-32 with a mark": encoded("utf-32"),
    "a byte order mark and CRLF": (lambda chance: b"\xef\xbb\xbf" + lines().replace(b"\n", b"\r\n"), Taken(LINES)),
    "a byte order mark at each line": (
        lambda chance: b"".join(b"\xef\xbb\xbf" + line(number) for number in range(LINES)), Taken(LINES)),
    "no bytes": (lambda chance: b"", refused(Reason.EMPTY_FILE)),
    "blank lines alone": (blanks, Taken(0, blank=7)),
    "a byte order mark alone": (lambda chance: b"\xef\xbb\xbf", Taken(0, {"bad_json": 1})),
    "the last line cut off": (lambda chance: lines() + line(99)[: chance.randrange(2, 90)], Taken(LINES, {"truncated_line": 1})),
    "no line end behind the last": (lambda chance: lines()[:-1], Taken(LINES)),
    "line ends of an old Mac": (lambda chance: lines().replace(b"\n", b"\r"), Taken(0, {"bad_json": 1})),
    "a hole of zeros": (lambda chance: among(chance, bytes(chance.randrange(1, 9000))), Taken(LINES - 1, {"nul_bytes": 1})),
    "an array of lines": (lambda chance: b"[" + b",".join(lines().split(b"\n")[:-1]) + b"]\n", Taken(0, {"not_an_object": 1})),
    "a page of HTML": (
        lambda chance: b"<html>\n<body>502 for nelly.quuxfield@example.net</body>\n</html>\n", Taken(0, {"bad_json": 3})),
    "an object over several lines": (
        lambda chance: json.dumps(dict(API_REQUEST), indent=chance.randrange(1, 5)).encode() + b"\n",
        Taken(0, {"bad_json": len(API_REQUEST) + 2})),
}  # fmt: skip


def twice(name: str, chance: random.Random, *, escaped: bool = False) -> bytes:
    """Return a line that says a field a second time, with another value."""
    good = line(1)
    key = "".join(f"\\u{ord(letter):04x}" for letter in name) if escaped else name
    again = f'"{key}": "{PERSON["email"]}"'.encode()
    return (
        good.replace(b"{", b"{" + again + b", ", 1)
        if chance.random() < 0.5
        else good.replace(b"}\n", b", " + again + b"}\n")
    )


def deep(chance: random.Random, levels: int) -> bytes:
    opening, closing = chance.choice([("[", "]"), ('{"a": ', "}")])
    return spelled(opening * levels + "1" + closing * levels, dropped=...)


def instant(chance: random.Random, *texts: str) -> bytes:
    return line(1, timestamp=chance.choice(texts))


def number(*tokens: str) -> Callable[[str], Callable[[random.Random], bytes]]:
    """Return what makes a line of a field: it spells one of these there."""
    return lambda name: lambda chance: spelled(chance.choice(tokens), **{name: ...})


HUGE = number(
    "1e400", "1E+400", "1e999999999999999999", "1e1000000000000000000", "1e99999999999999999999999", "9" * 4000
)
TINY_BEYOND = number("1e-1000000000000000000000", "1E-99999999999999999999999")
NO_NUMBER = number("NaN", "Infinity", "-Infinity", "nan", "inf", "-inf")
WRONG = number('"12"', "true", "false", "[1]", "{}", '""')
LONG_DIGITS = number("1" * 5000, "-" + "9" * 6000)

JSON_LINES: Mapping[str, Kind] = {
    **{f"a huge number as {name}": one_bad(HUGE(name), reason) for name, reason in (
        ("response_time_ms", "out_of_range"), ("bytes", "out_of_range"))},
    "a huge number where nobody looks": one_more(HUGE("dropped")),
    "a number of too small a power as response_time_ms": one_more(TINY_BEYOND("response_time_ms")),
    "a number of too small a power as bytes": one_bad(TINY_BEYOND("bytes"), "out_of_range"),
    "zero to a huge power": one_more(number("0e99999999999999999999", "-0.00E+99999999999999999999")("response_time_ms")),
    "a number of too small a power where nobody looks": one_more(TINY_BEYOND("dropped")),
    "a huge number as timestamp": one_bad(HUGE("timestamp"), "ambiguous_unit"),
    "a huge number as status": one_bad(number("1e400", "200.5", "2e2")("status_code"), "wrong_type"),
    "a number of thousands of digits where nobody looks": one_more(LONG_DIGITS("dropped")),
    **{f"a number of thousands of digits as {name}": one_bad(LONG_DIGITS(name), "out_of_range")
       for name in ("response_time_ms", "bytes")},
    **{f"no number as {name}": one_bad(NO_NUMBER(name), "out_of_range") for name in ("response_time_ms", "bytes", "status_code")},
    "no number where nobody looks": one_more(NO_NUMBER("dropped")),
    **{f"a wrong type as {name}": one_bad(WRONG(name), "wrong_type") for name in ("response_time_ms", "bytes", "status_code")},
    "a negative size": one_bad(number("-1", "-9223372036854775809")("bytes"), "out_of_range"),
    "a size of 2^63": one_bad(number("9223372036854775808")("bytes"), "out_of_range"),
    "a number as JSON has none": one_bad(number("01", "+1", ".5", "5.", "0x1F", "1_000", "1e")("bytes"), "bad_json"),
    **{f"{name} said twice": one_bad(lambda chance, name=name: twice(name, chance), "duplicate_key")
       for name in ("client_id", "request_id", "status_code", "is_real_vehicle")},
    "a field said twice, once in escapes": one_bad(lambda chance: twice("client_id", chance, escaped=True), "duplicate_key"),
    "a field that nobody reads said twice": one_more(lambda chance: twice("email", chance)),
    "half a surrogate in an identity": one_bad(lambda chance: spelled('"a\\ud83d"', client_id=...), "encoding"),
    "half a surrogate where nobody looks": one_more(lambda chance: spelled('"\\udc00"', dropped=...)),
    "NUL in escapes in an identity": one_bad(lambda chance: spelled('"a\\u0000b"', client_id=...), "bad_value"),
    "a raw NUL in a line": one_bad(lambda chance: line(1).replace(b"Nelly", b"Ne\x00lly"), "nul_bytes"),
    "a raw control character in text": one_bad(lambda chance: line(1).replace(b"Nelly", b"Ne\x01lly"), "bad_json"),
    "Latin-1": one_bad(lambda chance: line(1).replace(b"Nelly", b"N\xe9lly"), "encoding"),
    "UTF-8 in too many bytes": one_bad(lambda chance: line(1).replace(b"Nelly", b"N\xc0\xaflly"), "encoding"),
    "a surrogate in UTF-8": one_bad(lambda chance: line(1).replace(b"Nelly", b"N\xed\xa0\x80lly"), "encoding"),
    "a character cut in two": one_bad(lambda chance: line(1).replace(b"Nelly", b"N\xe2\x82lly"), "encoding"),
    "a line of a megabyte and more": one_bad(
        lambda chance: line(1, dropped="x" * chance.randrange(1_050_000, 2_000_000)), "too_long"),
    "a line of nearly a megabyte": one_more(lambda chance: line(1, dropped="x" * 1_047_000)),
    "one level too deep": one_bad(lambda chance: deep(chance, 32), "too_deep"),
    "a hundred thousand levels": one_bad(lambda chance: deep(chance, 100_000), "too_deep"),
    "brackets that never close": one_bad(lambda chance: b'{"a": ' * 50_000 + b"\n", "too_deep"),
    "two objects in a line": one_bad(lambda chance: line(1)[:-1] + chance.choice([b"", b" ", b","]) + line(2), "bad_json"),
    "an unknown method": one_bad(lambda chance: line(1, method=chance.choice(["BREW", "get", "", "GET "])), "bad_value"),
    "single quotes": one_bad(lambda chance: line(1).replace(b'"', b"'"), "bad_json"),
    "a remark": one_bad(lambda chance: line(1).replace(b"{", b"{/* nelly.quuxfield@example.net */", 1), "bad_json"),
    "something else than an object": one_bad(
        lambda chance: chance.choice([b"null", b"12", b'"nelly.quuxfield@example.net"', b"[]", b"true"]) + b"\n", "not_an_object"),
    "other characters between lines": one_bad(
        lambda chance: line(1)[:-1] + chance.choice(["\u2028", "\u0085", "\x0b", "\x0c"]).encode() + line(2), "bad_json"),
    "a key in escapes": one_more(lambda chance: line(1).replace(b'"client_id"', b'"client\\u005fid"')),
    "a key in wide letters": one_bad(
        lambda chance: line(1).replace(b'"client_id"', '"\uff43lient_id"'.encode()), "missing_field"),
    "ten thousand keys": one_more(lambda chance: line(1, **{f"k{n}": n for n in range(10_000)})),
    "a second 60 that never was": one_bad(
        lambda chance: instant(chance, "2016-12-30T23:59:60Z", "2025-06-30T23:59:60Z", "2016-12-31T22:59:60Z"), "leap_second"),
    "a leap second": one_more(lambda chance: instant(chance, "2016-12-31T23:59:60Z", "2017-01-01T00:59:60.9+01:00")),
    "a day that is in no calendar": one_bad(
        lambda chance: instant(chance, "2025-02-29T10:00:00Z", "2026-13-01T10:00:00Z", "2026-00-10T10:00:00Z",
                               "2026-01-32T10:00:00Z", "2026-01-01T24:00:00Z", "2026-01-01T10:60:00Z", "0000-01-01T00:00:00Z"),
        "bad_timestamp"),
    "an instant beyond the last year": one_bad(
        lambda chance: instant(chance, "9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00", "99999-01-01T00:00:00Z"),
        "bad_timestamp"),
    "an instant before every year that counts": one_bad(
        lambda chance: instant(chance, "0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "1994-12-31T23:59:59Z"), "sentinel_time"),
    "an instant in the future": one_bad(
        lambda chance: instant(chance, "9999-12-31T23:59:59Z", "2038-01-19T03:14:08Z", "2026-03-05T12:05:01Z"), "future"),
    "an instant without a zone": one_bad(lambda chance: instant(chance, "2026-03-01T10:00:00", "2026-03-01"), "no_timezone"),
    "digits of other scripts in an instant": one_bad(
        lambda chance: instant(chance, "\uff12\uff10\uff12\uff16-03-01T10:00:00Z"), "bad_timestamp"),
}  # fmt: skip


RECORDS = 40
BAD_AVRO = refused(Reason.BAD_AVRO)
SCHEMA_INCOMPATIBLE = refused(Reason.SCHEMA_INCOMPATIBLE)
_SYNC = bytes(range(100, 116))


def varint(value: int) -> bytes:
    """Return a zigzag number."""
    rest, out = (value << 1) ^ (value >> 63), bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*out, rest])


def text(value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return varint(len(raw)) + raw


def header(schema: object = AVRO_SCHEMA, codec: bytes | None = b"null", **more: bytes) -> bytes:
    """Return an Avro header. `schema`: JSON, or bytes as they are, or None for none."""
    raw = schema if isinstance(schema, bytes) else json.dumps(schema).encode()
    pairs = {name.replace("_", "."): value for name, value in more.items()}
    pairs |= {} if schema is None else {"avro.schema": raw}
    pairs |= {} if codec is None else {"avro.codec": codec}
    return (
        b"Obj\x01"
        + varint(len(pairs))
        + b"".join(text(key) + text(value) for key, value in pairs.items())
        + b"\0"
        + _SYNC
    )


def record(number: int, **raw: bytes) -> bytes:
    """Return a good record in bytes, fields replaced."""
    fields = {
        "request_id": text(f"a-{number}"),
        "client_id": text("acme"),
        "timestamp": varint(1_772_359_200_000 + number),
        "endpoint": text("/v2.0/vehicles/7f3a/odometer"),
        "method": text("GET"),
        "status_code": varint(200),
        "response_time_ms": struct.pack("<d", 12.5),
        "is_real_vehicle": b"\x01",
        "response_bytes": varint(1) + varint(512),
    }
    return b"".join((fields | raw).values())


def block(count: int, data: bytes, *, size: int | None = None, sync: bytes = _SYNC) -> bytes:
    return varint(count) + varint(len(data) if size is None else size) + data + sync


def records(first: int = 0, count: int = RECORDS) -> bytes:
    return b"".join(record(first + number) for number in range(count))


def good_block(first: int = 0) -> bytes:
    return block(RECORDS, records(first))


def with_block(make: Callable[[random.Random], bytes]) -> Callable[[random.Random], bytes]:
    """Return a file of three blocks, of which one is what `make` gives."""

    def made(chance: random.Random) -> bytes:
        blocks = [good_block(0), good_block(100)]
        blocks.insert(chance.randrange(3), make(chance))
        return header() + b"".join(blocks)

    return made


def with_record(**raw: bytes) -> Callable[[random.Random], bytes]:
    return lambda chance: header() + good_block(0) + block(1, record(900, **raw)) + good_block(100)


def schema_with(**types: object) -> dict[str, Any]:
    return avro_fields(**types)


def lying(chance: random.Random) -> bytes:
    """Return blocks that are stored in another way than the header says."""
    stored = {
        b"null": bytes,
        b"deflate": lambda data: zlib.compress(data)[2:-4],
        b"bzip2": bz2.compress,
        b"xz": lzma.compress,
        b"zstandard": zstd.compress,
    }
    said, meant = chance.sample([*stored, b"snappy"], 2)
    if meant == b"snappy":
        said, meant = meant, said
    return header(codec=said) + block(RECORDS, stored[meant](records()))


def another_sync(chance: random.Random) -> bytes:
    return block(RECORDS, records(200), sync=turned(chance, _SYNC, 0, 16))


def odd(change: Callable[[random.Random], int]) -> Callable[[random.Random], bytes]:
    return with_block(lambda chance: block(change(chance), records(200)))


def shuffled_fields(chance: random.Random) -> bytes:
    fields = list(AVRO_SCHEMA["fields"])
    chance.shuffle(fields)
    return avro_bytes([avro_request(n) for n in range(RECORDS)], {**AVRO_SCHEMA, "fields": fields}, codec="deflate")


def written(chance: random.Random, schema: Mapping[str, Any], **values: object) -> bytes:
    codec = chance.choice(["null", "deflate", "snappy", "zstandard", "bzip2", "xz"])
    return avro_bytes([avro_request(n, **values) for n in range(RECORDS)], schema, codec=codec)


AVRO: Mapping[str, Kind] = {
    "an Avro file": (lambda chance: header() + good_block(0) + good_block(100), Taken(2 * RECORDS)),
    "a header alone": (lambda chance: header(), Taken(0)),
    "a header cut off": (lambda chance: cut(chance, header(), 5), BAD_AVRO),
    "a block cut off": (lambda chance: header() + good_block() + cut(chance, good_block(100)), BAD_AVRO),
    "another sync marker": (with_block(another_sync), BAD_AVRO),
    "a count that is too high": (odd(lambda chance: RECORDS + chance.randrange(1, 1000)), BAD_AVRO),
    "a count that is too low": (odd(lambda chance: chance.randrange(1, RECORDS)), BAD_AVRO),
    "a count of none": (odd(lambda chance: 0), BAD_AVRO),
    "a negative count": (odd(lambda chance: -chance.randrange(1, 2**62)), BAD_AVRO),
    "an absurd count": (odd(lambda chance: 2**62 + chance.randrange(2**60)), BAD_AVRO),
    "a negative size": (with_block(lambda chance: block(1, record(1), size=-chance.randrange(1, 2**62))), BAD_AVRO),
    "an absurd size": (
        with_block(lambda chance: block(1, record(1), size=chance.randrange(2**29, 2**62))), refused(Reason.TOO_LARGE)),
    "a size that is too high": (
        lambda chance: header() + block(RECORDS, records(), size=len(records()) + chance.randrange(1, 900)), BAD_AVRO),
    "a size of none": (with_block(lambda chance: block(RECORDS, records(200), size=0)), BAD_AVRO),
    "an empty block": (with_block(lambda chance: block(0, b"")), Taken(2 * RECORDS)),
    "a number without end": (with_block(lambda chance: b"\xff" * chance.randrange(10, 40) + b"\x01"), BAD_AVRO),
    "garbage behind the last block": (lambda chance: header() + good_block() + noise(chance), BAD_AVRO),
    "a second file behind the first": (lambda chance: (header() + good_block()) * 2, BAD_AVRO),
    "a codec that nobody knows": (
        lambda chance: header(codec=chance.choice([b"lz4", b"DEFLATE", b"", PERSON["email"].encode()])) + good_block(), BAD_AVRO),
    "a codec that is not the blocks'": (lying, BAD_AVRO),
    "snappy with a wrong checksum": (
        lambda chance: turned(chance, avro_bytes([avro_request(n) for n in range(RECORDS)], codec="snappy"), -20, -16), BAD_AVRO),
    "no schema": (lambda chance: header(None) + good_block(), BAD_AVRO),
    "a schema that is no JSON": (
        lambda chance: header(cut(chance, json.dumps(AVRO_SCHEMA).encode(), 2)) + good_block(), BAD_AVRO),
    "a schema in UTF-16": (lambda chance: header(json.dumps(AVRO_SCHEMA).encode("utf-16")) + good_block(), BAD_AVRO),
    "a schema without a bottom": (
        lambda chance: header(b'{"type": "array", "items": ' * 5000 + b'"int"' + b"}" * 5000) + good_block(), BAD_AVRO),
    "a schema of a type that nobody knows": (
        lambda chance: header(schema_with(driver="nelly.quuxfield@example.net")) + good_block(), BAD_AVRO),
    "a schema of no record": (lambda chance: header("string") + block(1, text("nelly.quuxfield@example.net")), SCHEMA_INCOMPATIBLE),
    "a record of another name": (
        lambda chance: header({**AVRO_SCHEMA, "name": "NellyQuuxfield"}) + good_block(), SCHEMA_INCOMPATIBLE),
    **{f"a schema without {name}": (lambda chance, name=name: written(chance, schema_with(**{name: ...})), SCHEMA_INCOMPATIBLE)
       for name in ("request_id", "client_id", "endpoint", "status_code")},
    "a schema without the flag": (
        lambda chance: written(chance, schema_with(is_real_vehicle=...)), refused(Reason.SCHEMA_INCOMPATIBLE, Reason.FLAG_MISSING)),
    "a schema with a field renamed": (
        lambda chance: written(chance, schema_with(client_id=..., clientid="string"), clientid="acme"), SCHEMA_INCOMPATIBLE),
    "a schema with more fields": (
        lambda chance: written(chance, schema_with(email="string", driver=["null", "string"]), email=PERSON["email"],
                               driver=chance.choice([None, PERSON["driver"]])), Taken(RECORDS)),
    "fields in another order": (shuffled_fields, Taken(RECORDS)),
    "a union the other way round": (
        lambda chance: written(chance, schema_with(response_bytes=["long", "null"])), Taken(RECORDS)),
    "a union with null where there must be something": (
        lambda chance: written(chance, schema_with(client_id=["null", "string"]), client_id=None),
        Taken(0, {"missing_field": RECORDS})),
    "a union of more types": (
        lambda chance: written(chance, schema_with(response_bytes=["null", "long", "string"])), SCHEMA_INCOMPATIBLE),
    "an instant of seconds": (
        lambda chance: written(chance, schema_with(timestamp="long"), timestamp=1_772_359_200),
        refused(Reason.TIMESTAMP_UNIT_UNKNOWN)),
    "a branch that the union does not have": (
        with_record(response_bytes=varint(7) + varint(512)), BAD_AVRO),
    "a text of negative length": (with_record(client_id=varint(-5)), BAD_AVRO),
    "a text without end": (with_record(client_id=varint(2**40) + b"nelly.quuxfield@example.net"), BAD_AVRO),
    "a flag that is neither": (with_record(is_real_vehicle=b"\x02"), BAD_AVRO),
    "a text that is no UTF-8": (with_record(client_id=text(b"N\xe9lly Quuxfield")), refused(Reason.BAD_AVRO)),
    "a text with NUL": (with_record(client_id=text(b"a\x00b")), Taken(2 * RECORDS, {"bad_value": 1})),
    "NaN as time": (with_record(response_time_ms=struct.pack("<d", float("nan"))), Taken(2 * RECORDS, {"out_of_range": 1})),
    "an infinite time": (with_record(response_time_ms=struct.pack("<d", float("inf"))), Taken(2 * RECORDS, {"out_of_range": 1})),
    "a time below zero": (with_record(response_time_ms=struct.pack("<d", -1e-9)), Taken(2 * RECORDS, {"out_of_range": 1})),
    "a time of 1e308": (with_record(response_time_ms=struct.pack("<d", 1e308)), Taken(2 * RECORDS, {"out_of_range": 1})),
    "the last instant of 64 bits": (with_record(timestamp=varint(2**63 - 1)), Taken(2 * RECORDS, {"future": 1})),
    "the first instant of 64 bits": (with_record(timestamp=varint(-(2**63))), Taken(2 * RECORDS, {"sentinel_time": 1})),
    "an identity that is an address": (
        with_record(client_id=text("nelly.quuxfield@example.net")), Taken(2 * RECORDS, {"bad_value": 1})),
    "an Avro file in gzip cut off": (lambda chance: cut(chance, gzip.compress(header() + good_block()), 20), BAD_COMPRESSION),
    "an Avro file in gzip members": (
        lambda chance: b"".join(gzip.compress(piece) for piece in pieces(chance, header() + good_block(), 4)), Taken(RECORDS)),
    "lines": (lambda chance: lines(), SCHEMA_INCOMPATIBLE),
}  # fmt: skip
