"""The key that personal identities are hidden with: from the environment, or made once and kept in a file. Not here: hashing."""

import os
import secrets
from pathlib import Path


def pseudonym_key(file: Path) -> bytes:
    """Return the key that pseudonyms are made with: BILLING_PSEUDONYM_KEY, or the file's, made at the first call.

    With another key the same client gets another name, so the file belongs into the backup of an installation.
    """
    given = os.environ.get("BILLING_PSEUDONYM_KEY")
    if given:
        return given.encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(f".{os.getpid()}.tmp")
    if not file.exists():
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_hex(32))
        try:
            # Of several processes that start at once the first one's key stays.
            os.link(draft, file)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return file.read_text().strip().encode()
