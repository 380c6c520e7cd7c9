"""The reason for rejecting a document: its code, a str, with the offending value in `measure`."""


class Reason(str):
    """The code of a rule, `rule_set.rule`: all that a counter, a funnel row or a folder needs.

    measure: the offending value for human readers, such as `0.42` or `3 of 12 lines`; empty if the rule has none.
    """

    measure: str

    def __new__(cls, code: str, measure: object = ""):
        reason = super().__new__(cls, code)
        reason.measure = f"{measure:.4g}" if isinstance(measure, float) else str(measure)
        return reason

    def __reduce__(self):
        return type(self), (str(self), self.measure)
