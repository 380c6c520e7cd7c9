"""The errors a user is meant to read: one line saying what is wrong, where, and what to do about it.

The command prints the message of a `CastorError` without a stack trace and exits with code 2. Anything else that escapes is a bug
and keeps its trace. This file knows nothing of the rest of Castor.
"""


class CastorError(Exception):
    """A problem of the user's making or reach. `what` names the thing (file, record, gin binding); `remedy` says what to do."""

    def __init__(self, what: str, remedy: str = ""):
        super().__init__(f"{what} {remedy}".strip())
        self.what = what
        self.remedy = remedy

    def __reduce__(self):
        return type(self), (self.what, self.remedy)


class ConfigurationError(CastorError):
    """A gin file or binding that does not say what Castor can do."""


class CorpusError(CastorError):
    """A corpus that is missing, unreadable, incomplete or inconsistent with its manifest."""


class CacheError(CastorError):
    """A task cache that is missing, unreadable, incomplete or inconsistent with its manifest."""


class VocabularyError(CastorError):
    """A vocabulary that is missing, unreadable or not the one a cache or checkpoint was made with."""


class CheckpointError(CastorError):
    """A checkpoint that is missing, unreadable or of another shape than the model."""


class LockError(CastorError):
    """A folder that another process writes at this moment, or has begun to write since this one was paused."""
