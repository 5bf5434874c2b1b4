"""The root of every error that this project raises on purpose.

An operator reads three things in it: what happened, what it means for the bill, what to do. Not here: the errors
themselves; each is defined beside the function that raises it. Bad input rows are values (`records.Rejection`), not errors.
"""


class BillingError(Exception):
    """An expected failure with a cause and a fix that a person can act on."""

    def __init__(self, what: str, *, bill: str, fix: str) -> None:
        super().__init__(f"{what}\n  For the bill: {bill}\n  To fix: {fix}")
        self.what = what
        self.bill = bill
        self.fix = fix

    def __reduce__(self) -> tuple[object, ...]:
        # As it is, whatever a kind of error is made from.
        return type(self).__new__, (type(self), *self.args), self.__dict__
