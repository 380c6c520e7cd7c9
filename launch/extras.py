"""Finds the extra of Castor that installs a missing third-party module.

`pip install castor` installs the core, which reads caches, mixes and makes batches. Extras install everything else. The
command looks up failed imports here, so modules can import their libraries in the ordinary way. setup.py defines the
extras; this module reads them from the metadata of the installed distribution. It only adds the import names of
distributions.
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
"""Module -> requirement that installs it, for requirements whose name differs from the module's."""

ORDER = ("gcs", "data", "train", "seqio")
"""Extras in order of preference; `tpu`, `gpu` and `dev` repeat some of their requirements."""

_REQUIREMENT = re.compile(r"""([\w.-]+)[^;]*;.*\bextra == ["']([\w-]+)["']""")


def remedy(error: BaseException, preferred: str = "") -> tuple[str, str] | None:
    """The requirement whose absence caused an error, and the command that installs it; None if no extra would help.

    error: the error, whose causes are searched too, because gin files import the modules that they configure.
    preferred: the extra to name if several install the requirement; otherwise the first of `ORDER`.
    """
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, ImportError) and cause.name):
        # gin raises a copy of the error without the module name; the original is the context of the copy.
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
    """Extra -> the lower-case names of its requirements."""
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
