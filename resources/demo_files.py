"""Write files of the demo below a folder: (key -> bytes) -> the paths that are new. Not here: what is in them (demo_*)."""

import gzip
import os
from collections.abc import Iterable, Mapping
from pathlib import Path


def write_missing(folder: Path, files: Mapping[str, bytes]) -> tuple[Path, ...]:
    """Write those of `files` that do not exist below `folder`, and return their paths."""
    return tuple(write_whole(folder / key, content) for key, content in files.items() if not (folder / key).exists())


def write_changed(folder: Path, files: Mapping[str, bytes]) -> tuple[Path, ...]:
    """Write those of `files` that do not exist below `folder` with this content, and return their paths."""
    return tuple(
        write_whole(folder / key, content)
        for key, content in files.items()
        if not (folder / key).exists() or (folder / key).read_bytes() != content
    )


def write_whole(path: Path, content: bytes) -> Path:
    """Write the file in one step: a reader sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)
    return path


def gzipped(pieces: Iterable[bytes]) -> bytes:
    """Return the pieces as one gzip file, the same bytes at any time."""
    return gzip.compress(b"".join(pieces), compresslevel=6, mtime=0)
