"""Keys of intents: one for a request, another for any other request, and another for the same one when it is wanted once more."""

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from resources.stripe_api.calls import Operation, StripeCall
from resources.stripe_sync.intent_store import Doer, Purpose, Write, _intent

DOER = Doer(account_id="acme", customer_id="cus_1", run_id="run", purpose=Purpose.DAILY)
NOW = datetime(2026, 3, 1, tzinfo=UTC)

texts = st.text("abc\N{EURO SIGN}", max_size=3)
requests = st.builds(
    lambda operation, subject, item, amount, metadata: Write(
        subject=subject,
        call=StripeCall(
            operation=operation,
            ids=(item,) if operation is Operation.INVOICE_ITEMS_UPDATE else (),
            params={"amount": amount, "metadata": metadata},
        ),
    ),
    st.sampled_from([Operation.INVOICE_ITEMS_CREATE, Operation.INVOICE_ITEMS_UPDATE]),
    st.sampled_from(["a", "b", "a" * 70, "a" * 71]),
    st.sampled_from(["ii_1", "ii_2"]),
    st.integers(-2, 2),
    st.dictionaries(st.sampled_from(["bp_key", "x"]), texts, max_size=2),
)


def sent(write: Write, epoch: int = 1) -> tuple[str, dict[str, Any]]:
    """Return the key, and what goes on the wire under it."""
    intent = _intent(write, epoch, DOER, NOW)
    call = intent.write.call
    return intent.key.text, {"operation": call.operation, "ids": call.ids, "params": call.params}


class TestKeys:
    @given(requests, requests, st.integers(1, 3), st.integers(1, 3))
    def test_r9_differ_where_requests_differ(self, one: Write, other: Write, first: int, second: int) -> None:
        (key, said), (other_key, other_said) = sent(one, first), sent(other, second)
        if key == other_key:
            assert said == other_said

    @given(requests)
    def test_are_the_same_for_a_request_and_others_when_it_is_wanted_once_more(self, write: Write) -> None:
        assert sent(write) == sent(write)
        assert sent(write, 1)[0] != sent(write, 2)[0]
        assert len(sent(write)[0]) <= 255
