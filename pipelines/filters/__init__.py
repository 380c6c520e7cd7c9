"""Rule sets, one a file, named after the paper or data set that published it.

A rule set is a frozen dataclass `Filter` with a `name` and `check(document) -> None | reason`; the thresholds are its fields, with the
published values as defaults, and the reason `name.rule` is at once the counter, the funnel row and the folder of kept rejects.
"""
