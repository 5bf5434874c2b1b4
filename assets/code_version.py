"""Name the code that computes a bill: a digest of the head's source (Python, SQL, profiles).

The one place of it. Assets carry it, and so does every generation, build and charge revision that they write. A change in
`billing_pipeline/` is another version; a change of a door or a hand is not.
"""

import hashlib
from functools import cache
from pathlib import Path

import billing_pipeline

DIGEST_LENGTH = 12
SOURCE_SUFFIXES = {".py", ".sql", ".toml", ".avsc"}


@cache
def code_version() -> str:
    """Return the version, 12 hex digits; the same on every machine with the same source."""
    root = Path(billing_pipeline.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.suffix in SOURCE_SUFFIXES:
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:DIGEST_LENGTH]
