"""What is wrong with a currency, or with an amount in it, in the words of a finding. Pure."""

from decimal import Decimal

from billing_pipeline.amounts import UnknownCurrencyError, exact_text, minor_digits, to_money


def currency_problem(currency: str) -> str | None:
    """Return what is wrong with the code of a currency, None where it is one."""
    try:
        minor_digits(currency)
    except UnknownCurrencyError as error:
        return f"{error.what}: {error.fix}"
    return None


def places_problem(amount: Decimal, currency: str) -> str | None:
    """Return what is wrong with an amount that the ledger must hold, None where it can."""
    if currency_problem(currency) is not None or to_money(amount, currency).major == amount:
        return None
    return f"{exact_text(amount)} has more places than {currency}; the ledger holds {minor_digits(currency)}"
