"""Filters: one rule set per file, named after the paper or data set that published it.

A rule set is a frozen dataclass `Filter` with a `name` and `check(document) -> None | reason`. Its fields are the
thresholds, with the published values as defaults. The reason `name.rule` names the counter, the funnel row and the
folder of kept rejects.
"""
