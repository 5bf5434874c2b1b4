"""Where in a catalog file something stands: the line of a field, or of the nearest that is written around it. Pure.

TOML readers give no positions, so the text is walked once more. Not here: what is wrong (validation).
"""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from billing_pipeline.catalog.entries import Kind, Place
from billing_pipeline.catalog.files import FILES, LIST_OF, Finding

_Path = tuple[str | int, ...]
_KEY = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*'""")
_TEXT = re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\]|\\.)*"|\'[^\']*\'', re.DOTALL)
_BARE = re.compile(r"[^,\]}\n#]+")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KIND_OF = {name: kind for kind, name in FILES.items()}


def placed(findings: Iterable[Finding], files: Mapping[str, bytes]) -> Iterator[Finding]:
    """Yield the findings with their lines, where the files tell."""
    texts: dict[str, _Lines] = {}
    for finding in findings:
        kind = _KIND_OF.get(finding.file)
        if kind is None or finding.file not in files:
            yield finding
            continue
        if finding.file not in texts:
            texts[finding.file] = _Lines(kind, files[finding.file])
        yield replace(finding, line=texts[finding.file].of(finding.entry, finding.field))


def line_of(place: Place, content: bytes) -> int | None:
    """Return the line of a place in the content of its file, None where the file does not have the entry."""
    return _Lines(place.kind, content).of(place.entry_id, place.field, version=place.version)


class _Lines:
    """The lines of one file."""

    def __init__(self, kind: Kind, content: bytes) -> None:
        self._kind = kind
        self._lines: Mapping[_Path, int] = {}
        self._tables: Mapping[str, object] = {}
        try:
            text = content.decode("utf-8-sig")
            self._tables = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError):
            return
        self._lines = _Walk(text).lines

    def of(self, entry_id: str, field: str, *, version: int | None = None) -> int | None:
        """Return the line of the field, or of the nearest around it; where there is none, of the entry's id."""
        entry: _Path = ()
        if self._kind is not Kind.BILLABLE_RULE:
            number = self._number(entry_id)
            if number is None:
                return None
            entry = (LIST_OF[self._kind], number)
        path = entry
        if version is not None:
            path = (*path, "versions", self._version(entry, version))
        path = (*path, *(int(part) - 1 if part.isdigit() else part for part in field.split(".") if part))
        while len(path) > len(entry) and path not in self._lines:
            path = path[:-1]
        if len(path) > len(entry):
            return self._lines[path]
        return self._lines.get((*entry, "id"), self._lines.get(entry))

    def _entries(self) -> list[object]:
        found = self._tables.get(LIST_OF[self._kind], [])
        return found if isinstance(found, list) else []

    def _number(self, entry_id: str) -> int | None:
        entries = enumerate(self._entries())
        return next((number for number, one in entries if isinstance(one, dict) and one.get("id") == entry_id), None)

    def _version(self, entry: _Path, version: int) -> int:
        number = 0
        while ((*entry, "versions", number)) in self._lines:
            line = self._lines.get((*entry, "versions", number, "version"))
            if line is not None and self._versions(entry)[number] == version:
                return number
            number += 1
        return 0

    def _versions(self, entry: _Path) -> list[object]:
        table = self._entries()[int(entry[1])]
        found = table.get("versions", []) if isinstance(table, dict) else []
        return [one.get("version") if isinstance(one, dict) else None for one in found]


class _Walk:
    """Walks a text that is TOML, and notes the line of each key, of each element of an array and of each table."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self._number, self._counted = 1, 0
        self._counts: dict[_Path, int] = {}
        self.lines: dict[_Path, int] = {}
        table: _Path = ()
        while self._blank() < len(text):
            if text.startswith("[", self._at):
                table = self._head()
            else:
                self._pair(table)

    def _blank(self) -> int:
        match = _BLANK.match(self._text, self._at)
        self._at = match.end() if match else self._at
        return self._at

    def _line(self) -> int:
        self._number += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._number

    def _note(self, path: _Path) -> None:
        self.lines.setdefault(path, self._line())

    def _head(self) -> _Path:
        is_array = self._text.startswith("[[", self._at)
        line_at = self._at
        self._at += 2 if is_array else 1
        path: _Path = ()
        keys = self._keys()
        for place, key in enumerate(keys):
            path = (*path, key)
            if place == len(keys) - 1 and is_array:
                self._counts[path] = self._counts.get(path, -1) + 1
            if path in self._counts:
                path = (*path, self._counts[path])
        end, self._at = self._at, line_at
        self._note(path)
        self._at = end + (2 if is_array else 1)
        return path

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._blank()
            match = _KEY.match(self._text, self._at)
            if match is None:
                raise AssertionError("TOML that was read has keys")  # pragma: no cover
            keys.append(match[0].strip("\"'"))
            self._at = match.end()
            self._blank()
            if not self._text.startswith(".", self._at):
                return keys
            self._at += 1

    def _pair(self, table: _Path) -> None:
        begins = self._at
        path = (*table, *self._keys())
        end, self._at = self._at, begins
        self._note(path)
        self._at = end + 1
        self._value(path)

    def _value(self, path: _Path) -> None:
        self._blank()
        match self._text[self._at]:
            case "[":
                for number in self._inside("]"):
                    self._note((*path, number))
                    self._value((*path, number))
            case "{":
                for _ in self._inside("}"):
                    self._pair(path)
            case _:
                found = _TEXT.match(self._text, self._at) or _BARE.match(self._text, self._at)
                self._at = found.end() if found else len(self._text)

    def _inside(self, end: str) -> Iterator[int]:
        """Yield a number for each element of a list or an inline table, with the walk standing at it, and pass its end."""
        self._at += 1
        number = 0
        while self._blank() < len(self._text) and not self._text.startswith(end, self._at):
            yield number
            number += 1
            if self._blank() < len(self._text) and self._text.startswith(",", self._at):
                self._at += 1
        self._at += 1
