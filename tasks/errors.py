"""Errors for users: one line with the problem, its location and the remedy.

The command prints the message of a `CastorError` without a stack trace and exits with code 2. Any other exception is
a bug and keeps its stack trace. This file imports nothing from Castor.
"""


class CastorError(Exception):
    """A problem that the user can solve.

    what: the problem and its location (file, record, gin binding).

    remedy: what to do.
    """

    def __init__(self, what: str, remedy: str = ""):
        super().__init__(f"{what} {remedy}".strip())
        self.what = what
        self.remedy = remedy

    def __reduce__(self):
        return type(self), (self.what, self.remedy)


class ConfigurationError(CastorError):
    """A gin file or binding that Castor cannot use."""


class CorpusError(CastorError):
    """A corpus that is missing, unreadable, incomplete or inconsistent with its manifest."""


class CacheError(CastorError):
    """A task cache that is missing, unreadable, incomplete or inconsistent with its manifest."""


class VocabularyError(CastorError):
    """A vocabulary that is missing, unreadable or not the one a cache or checkpoint was made with."""


class CheckpointError(CastorError):
    """A checkpoint that is missing, unreadable or of another shape than the model."""


class LockError(CastorError):
    """A folder that another process is writing, or has taken over while this process was paused."""
