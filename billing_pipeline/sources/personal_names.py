"""Names that hold an e-mail address -> the same names with a keyed pseudonym in its place. Pure.

Owners and repositories are named by people, and some are named after people's addresses. Nothing of an address is kept; whoever
has the key finds the name again by spelling the address anew. An address is the same in capitals, so that one person is one
client of traffic and of storage. Not here: the key (resources/pseudonym_key), hashing (request_lines.pseudonym).
"""

import re
from collections.abc import Callable

# Turns an e-mail address into a keyed pseudonym.
Pseudonymise = Callable[[str], str]

# Of a folder whose whole name is an address, also one of a local domain; "@scope" and "name@" are none.
_WHOLE = re.compile(r"[^\s@]+(?:@|%40)[^\s@]+", re.IGNORECASE)
# In a longer name: a domain of labels, the last of which has letters alone.
_WITHIN = re.compile(
    r"[^\s@/<>()\[\]\"',;:]+(?:@|%40)(?:[^\W_](?:[\w-]*[^\W_])?\.)+(?:xn--[a-z0-9-]+|[^\W\d_]{2,})", re.IGNORECASE
)


def has_address(name: str) -> bool:
    """Tell whether an e-mail address stands in a name."""
    if "@" not in name and "%40" not in name:
        return False
    return any(_WHOLE.fullmatch(part) or _WITHIN.search(part) for part in name.split("/"))


def kept_name(name: str, pseudonymise: Pseudonymise | None) -> str | None:
    """Return how a name is kept: without addresses. None: it holds one, and nothing turns it into a pseudonym."""
    if not has_address(name):
        return name
    return None if pseudonymise is None else without_addresses(name, pseudonymise)


def without_addresses(name: str, pseudonymise: Pseudonymise) -> str:
    """Return `name` with a pseudonym in the place of each e-mail address.

    `jane@example.com/cats` becomes `c_0123456789abcdef/cats`.
    """

    def hidden(match: re.Match[str]) -> str:
        return pseudonymise(match[0].replace("%40", "@").lower())

    parts = name.split("/")
    return "/".join(hidden(whole) if (whole := _WHOLE.fullmatch(part)) else _WITHIN.sub(hidden, part) for part in parts)
