"""A reason to reject a document, with the value that gave it. A `Reason` is its code, a str; who wants to know more asks for `measure`."""


class Reason(str):
    """The code of a rule, `rule_set.rule`, which is all that a counter, a funnel row or a folder needs.

    measure: the offending value as a reader wants to see it, `0.42` or `3 of 12 lines`; empty where the rule has none.
    """

    measure: str

    def __new__(cls, code: str, measure: object = ""):
        reason = super().__new__(cls, code)
        reason.measure = f"{measure:.4g}" if isinstance(measure, float) else str(measure)
        return reason

    def __reduce__(self):
        return type(self), (str(self), self.measure)
