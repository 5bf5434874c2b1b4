"""Check who sends a webhook: (header, body, secrets, now) -> nothing, or a refusal.

The header is `t=<seconds>,v1=<HMAC-SHA256 of "t.body">,...`; while a secret is replaced there are several v1 values, and we may
hold several secrets. A signature counts for five minutes. Secrets are in no message. Not here: what the body says.
"""

import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime, timedelta

from billing_pipeline.errors import BillingError

TOLERANCE = timedelta(seconds=300)
_SCHEME = "v1"


class SignatureError(BillingError):
    """A webhook that Stripe did not send, or not just now."""


class WebhookSecretError(BillingError):
    """There is no secret by which webhooks could be checked."""


def webhook_secrets(text: str | None) -> tuple[str, ...]:
    """Return the signing secrets that STRIPE_WEBHOOK_SECRET holds: one, or several with commas, the old one beside the new.

    Raises:
        WebhookSecretError: there is none.
    """
    secrets = tuple(secret for part in (text or "").split(",") if (secret := part.strip()))
    if not secrets:
        raise WebhookSecretError(
            "STRIPE_WEBHOOK_SECRET is not set",
            bill="nothing was started; events still come by the feed",
            fix="set it to the signing secret (whsec_…) of the webhook endpoint in Stripe's dashboard",
        )
    return secrets


def check_signature(
    header: str, body: bytes, secrets: Sequence[str], *, now: datetime, tolerance: timedelta = TOLERANCE
) -> None:
    """Refuse a body that was not signed with one of `secrets` within `tolerance` of `now` (aware).

    Raises:
        SignatureError: says which of the two, or that there is no signature.
    """
    pairs = [part.strip().partition("=") for part in header.split(",")]
    times = [value for name, _, value in pairs if name == "t"]
    given = [value for name, _, value in pairs if name == _SCHEME]
    if len(times) != 1 or not times[0].isascii() or not times[0].isdecimal() or not given:
        raise _refused("it carries no signature")
    signed = times[0].encode() + b"." + body
    expected = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets]
    # All of them, whichever fits: the time tells nothing.
    fits = [hmac.compare_digest(one.encode(), other.encode()) for one in expected for other in given]
    if not any(fits):
        raise _refused("its signature fits none of our secrets")
    age_seconds = now.timestamp() - int(times[0])
    if abs(age_seconds) > tolerance.total_seconds():
        raise _refused(f"it was signed {age_seconds:,.0f} s ago; {tolerance.total_seconds():.0f} s are allowed")


def _refused(why: str) -> SignatureError:
    return SignatureError(
        f"a webhook is refused: {why}",
        bill="nothing was kept; a genuine event comes again, and by the feed as well",
        fix="compare STRIPE_WEBHOOK_SECRET with the endpoint's signing secret, and this machine's clock with the time",
    )
