"""Which secret key may be used where: (key, mode, address) -> nothing, or a refusal. The key is in no message.

A live key moves money: it is refused unless the mode is `live`, at any address but Stripe's own, and the other way round.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from urllib.parse import urlsplit

from billing_pipeline.errors import BillingError

STRIPE_ADDRESS = "https://api.stripe.com"
_KEY = re.compile(r"(?:sk|rk)_(test|live)_[A-Za-z0-9_]+", re.ASCII)
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_NOTHING_SENT = "nothing was sent to Stripe, and nothing there changed."


class StripeMode(StrEnum):
    """Whether money may move."""

    TEST = "test"
    LIVE = "live"


class StripeKeyError(BillingError):
    """The key cannot be used in this mode or at this address."""


def read_mode(text: str) -> StripeMode:
    """Return the mode that BILLING_STRIPE_MODE spells, `test` for an empty text.

    Raises:
        StripeKeyError: it is neither `test` nor `live`.
    """
    try:
        return StripeMode(text.strip() or StripeMode.TEST)
    except ValueError:
        raise StripeKeyError(
            f"BILLING_STRIPE_MODE is {text!r}", bill=_NOTHING_SENT, fix="set it to test (the default) or live."
        ) from None


def check_key(api_key: str, mode: StripeMode, base_addresses: Mapping[str, str]) -> None:
    """Refuse a key that does not belong to `mode`, and an address at which it must not be shown.

    Raises:
        StripeKeyError: says which, and never shows the key.
    """
    match = _KEY.fullmatch(api_key)
    if match is None:
        raise StripeKeyError(
            "STRIPE_API_KEY is not set to a secret or restricted key of Stripe"
            if api_key
            else "STRIPE_API_KEY is not set",
            bill=_NOTHING_SENT,
            fix="set it to sk_test_… or rk_test_…; for real invoices to rk_live_… with BILLING_STRIPE_MODE=live.",
        )
    if match[1] != mode:
        raise StripeKeyError(
            f"STRIPE_API_KEY is a {match[1]} key and the mode is {mode}",
            bill=_NOTHING_SENT,
            fix="use a key of the other kind, or set BILLING_STRIPE_MODE to what this installation is.",
        )
    for address in base_addresses.values():
        _check_address(address, mode)


def _check_address(address: str, mode: StripeMode) -> None:
    parts = urlsplit(address)
    host = parts.hostname or ""
    if mode is StripeMode.LIVE and not (parts.scheme == "https" and host.endswith(".stripe.com")):
        raise StripeKeyError(
            f"a live key would be sent to {host or 'an address without a host'}, which is not Stripe's",
            bill=_NOTHING_SENT,
            fix="unset BILLING_STRIPE_URL; a stand-in is used with a test key.",
        )
    if parts.scheme != "https" and host not in _LOOPBACK:
        raise StripeKeyError(
            f"the key would be sent to {host or 'an address without a host'} unencrypted",
            bill=_NOTHING_SENT,
            fix="set BILLING_STRIPE_URL to an https address, or to a stand-in on this machine.",
        )
