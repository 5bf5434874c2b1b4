"""Where in a catalog file a finding is: the line of its field, or of its entry's id. Pure: text in, numbers out.

TOML readers give no positions. Entries begin with `[[kind]]` and say their id; of a field that an entry writes once the line is
sure, of others it is the entry's. Not here: what is wrong (validation).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from billing_pipeline.catalog.files import Finding

_HEAD = re.compile(r"\s*\[\[\s*([A-Za-z_]+)\s*\]\]")
_ID = re.compile(r"""\s*id\s*=\s*["']([^"']*)["']""")


def placed(findings: Iterable[Finding], files: Mapping[str, bytes]) -> Iterator[Finding]:
    """Yield the findings with their lines, where the files tell."""
    texts = {name: content.decode(errors="replace").splitlines() for name, content in files.items()}
    for finding in findings:
        yield replace(finding, line=_line(finding, texts.get(finding.file, ())))


def _line(finding: Finding, lines: Iterable[str]) -> int | None:
    block = _block(finding.entry, lines)
    if not block:
        return None
    name = next((part for part in reversed(finding.field.split(".")) if not part.isdigit()), "")
    written = [number for number, line in block if re.match(rf"\s*{re.escape(name)}\s*=", line)] if name else []
    if len(written) == 1:
        return written[0]
    return next((number for number, line in block if _ID.match(line)), block[0][0])


def _block(entry: str, lines: Iterable[str]) -> list[tuple[int, str]]:
    """Return the numbered lines of the first entry with that id."""
    block: list[tuple[int, str]] = []
    for number, line in enumerate(lines, 1):
        if _HEAD.match(line):
            if _has_id(entry, block):
                return block
            block = []
        block.append((number, line))
    return block if _has_id(entry, block) else []


def _has_id(entry: str, block: Iterable[tuple[int, str]]) -> bool:
    return any((match := _ID.match(line)) is not None and match[1] == entry for _, line in block)
