"""Says which extra of Castor brings a third-party module that an import did not find.

`pip install castor` installs the core: what reads caches, mixes and makes batches. Everything else comes with an extra. The command asks here
when an import fails, so modules import their libraries plainly. The extras themselves stand in setup.py and are read from the installed
distribution's metadata; only the names by which a distribution is imported stand here.
"""

import importlib.metadata
import importlib.util
import re

DISTRIBUTIONS = {
    "PIL": "pillow",
    "apache_beam": "apache-beam",
    "array_record": "array-record",
    "charset_normalizer": "charset-normalizer",
    "clu": "seqio",
    "etils": "orbax-checkpoint",
    "google.api_core": "google-cloud-storage",
    "google.auth": "google-cloud-storage",
    "google.cloud.storage": "google-cloud-storage",
    "grpc": "apache-beam",
    "ml_dtypes": "jax",
    "orbax": "orbax-checkpoint",
    "requests": "google-cloud-storage",
    "tensorflow_text": "tensorflow-text",
}
"""The requirement that brings a module, where the requirement does not bear the module's own name."""

ORDER = ("gcs", "data", "train", "seqio")
"""Extras in the order in which they are named; `tpu`, `gpu` and `dev` list requirements of these again."""

_REQUIREMENT = re.compile(r"""([\w.-]+)[^;]*;.*\bextra == ["']([\w-]+)["']""")


def remedy(error: BaseException, preferred: str = "") -> tuple[str, str] | None:
    """The requirement that an error comes from the lack of, and the command that installs it; None where no extra of Castor would help.

    Errors that `error` was raised from count too: gin files import the modules that they configure. Where several extras bring the
    requirement, `preferred` is named if it is one of them, else the first of ORDER.
    """
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, ImportError) and cause.name):
        # gin raises a copy without the name of the module; the original is its context.
        cause = cause.__context__ if isinstance(cause, ImportError) else cause.__cause__
    parts = cause.name.split(".") if isinstance(cause, ImportError) and cause.name else []
    for length in range(len(parts), 0, -1):
        module = ".".join(parts[:length])
        requirement = DISTRIBUTIONS.get(module, module if length == 1 else "")
        extras = [name for name, wanted in _extras().items() if requirement.lower() in wanted]
        if extras and not _is_there(module):
            extra = next(name for name in (preferred, *ORDER, *sorted(extras)) if name in extras)
            return requirement, f"pip install 'castor[{extra}]'"
    return None


def _extras() -> dict[str, set[str]]:
    """The requirements of each extra, by their names in lower case."""
    extras: dict[str, set[str]] = {}
    try:
        lines = importlib.metadata.requires("castor") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    for line in lines:
        if match := _REQUIREMENT.match(line):
            extras.setdefault(match[2], set()).add(match[1].lower())
    return extras


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
