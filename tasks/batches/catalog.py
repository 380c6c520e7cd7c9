"""Finds task caches under a directory, and resolves mixtures of them by name, from Python or from gin.

The name of a task is the path of its directory below the searched directory, with `:` for `/`, as in SeqIO. A mixture
names tasks or cache directories with weights. A missing cache is an error: no component is ever dropped silently.
"""

import dataclasses
import difflib
import fractions
import os
from collections.abc import Mapping
from typing import Any

import gin
from castor.tasks.batches import skips
from castor.tasks.cache import layout
from castor.tasks.cache.manifest import Manifest, load_manifest
from castor.tasks.errors import CacheError, ConfigurationError, VocabularyError
from castor.tasks.mixing import schedule, weights
from castor.tasks.storage import storage

_MAX_DEPTH = 4


@dataclasses.dataclass(frozen=True)
class FoundCache:
    """A directory that is a task cache, or looks like one and is unusable.

    name: task name.

    directory: path of the directory.

    manifest: manifest of the cache; None for an unusable directory.

    problem: why the directory is unusable; empty for a cache.
    """

    name: str
    directory: str
    manifest: Manifest | None
    problem: str = ""


def find_caches(directory: str) -> list[FoundCache]:
    """The task caches at and below a directory, up to four folders deep, sorted by name.

    Unfinished and unreadable caches are included with their problem.

    directory: local path or bucket URI.
    """
    found: list[FoundCache] = []
    _search(os.fspath(directory), os.path.basename(os.path.abspath(directory)), 0, found)
    return sorted(found, key=_name_of)


def _name_of(found: FoundCache) -> str:
    return found.name


def _search(directory: str, name: str, depth: int, found: list[FoundCache]) -> None:
    names = storage.list_files(directory)
    looks_like_one = layout.looks_like_cache(names)
    if layout.MANIFEST in names or looks_like_one:
        try:
            found.append(FoundCache(name, directory, load_manifest(directory)))
            return
        except CacheError as error:
            if looks_like_one:
                found.append(FoundCache(name, directory, None, str(error)))
                return
    if depth < _MAX_DEPTH:
        for child in names:
            path = storage.join(directory, child)
            if not child.startswith(".") and storage.is_directory(path):
                _search(path, child if depth == 0 else f"{name}:{child}", depth + 1, found)


@gin.configurable(module="tasks")
@dataclasses.dataclass(frozen=True)
class Mixture:
    """Tasks and their shares of the training positions (batch rows), and what is skipped.

    name: name of the mixture, also as a SeqIO Mixture.

    components: task name or cache directory -> weight from step 0, a number of at least 0. Only ratios count. A
    component with weight 0 keeps its index among the domains and gets no rows.

    cache_dirs: directories in which task names are looked up, in order.

    stages: weights from later steps on, as MixtureStage, (start, weights) or (start, weights, ramp).

    weighting: None, a weighting of tasks/mixing/weights.py, or the name 'proportional'. Shares then follow from the
    contents of the caches, and the weights of `components` and `stages` multiply them.

    skip_documents: document ids, or the name of a file with one id per line. The tokens of these documents become
    padding; every other token keeps its row.

    skip_steps: ranges (from, to) of data steps whose batches are skipped. The run continues with the batch of step
    `to`; the order is otherwise unchanged.

    Raises ConfigurationError for invalid values.
    """

    name: str = "mixture"
    components: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    cache_dirs: tuple[str, ...] = ()
    stages: tuple[schedule.MixtureStage, ...] = ()
    weighting: "weights.Weighting | str | None" = None
    skip_documents: tuple[str, ...] | str = ()
    skip_steps: tuple[tuple[int, int], ...] = ()

    def __post_init__(self):
        if not isinstance(self.components, Mapping) or not self.components:
            raise ConfigurationError(
                f"mixture {self.name!r} has no components.",
                "Bind tasks.Mixture.components = {'web': 0.5, 'code': 0.5}.",
            )
        object.__setattr__(self, "components", dict(self.components))
        dirs = (self.cache_dirs,) if isinstance(self.cache_dirs, (str, os.PathLike)) else self.cache_dirs
        object.__setattr__(self, "cache_dirs", tuple(os.fspath(d) for d in dirs))
        object.__setattr__(self, "stages", tuple(self._stage(stage) for stage in self.stages or ()))
        if self.weighting == "proportional":
            object.__setattr__(self, "weighting", weights.Proportional())
        if self.weighting is not None and not hasattr(self.weighting, "weights"):
            raise ConfigurationError(
                f"mixture {self.name!r} has weighting {self.weighting!r}.",
                "Bind it to 'proportional' or a class of tasks.weights.",
            )
        object.__setattr__(self, "skip_documents", skips.documents(self.skip_documents))
        object.__setattr__(self, "skip_steps", skips.step_ranges(self.skip_steps))

    def _stage(self, stage: Any) -> schedule.MixtureStage:
        if not isinstance(stage, schedule.MixtureStage):
            if not isinstance(stage, (tuple, list)) or not 2 <= len(stage) <= 3:
                raise ConfigurationError(
                    f"mixture {self.name!r} has a stage {stage!r}.",
                    "Give (start, weights), (start, weights, ramp) or @tasks.MixtureStage().",
                )
            stage = schedule.MixtureStage(*stage)
        if unknown := sorted(set(stage.weights) - set(self.components)):
            raise ConfigurationError(
                f"the stage at step {stage.start} of mixture {self.name!r} has weights for {unknown[0]!r}, "
                "which is not a component.",
                f"Name it in components too, with weight 0 if it comes later: components = {{..., {unknown[0]!r}: 0}}.",
            )
        return stage

    def weights(
        self, manifests: Mapping[str, Manifest] | None = None
    ) -> list[tuple[int, int, dict[str, fractions.Fraction]]]:
        """Weights of the start and of each stage, as (start, ramp, domain name -> weight), exact and not normalized.

        manifests: the result of `manifests()`; None to load them.

        Raises ConfigurationError for invalid weights and if all weights of a stage are 0.
        """
        manifests = self.manifests() if manifests is None else manifests
        base = dict.fromkeys(manifests, fractions.Fraction(1))
        if self.weighting is not None and not isinstance(self.weighting, str):
            counted = {
                name: manifest.records("train") if self.weighting.unit == "examples" else manifest.tokens("train")
                for name, manifest in manifests.items()
            }
            base = self.weighting.weights(counted)
        result = []
        for start, ramp, given in (
            (0, 0, self.components),
            *((stage.start, stage.ramp, stage.weights) for stage in self.stages),
        ):
            exact = {
                name: base[name] * schedule.exact(name, given.get(component, 0))
                for component, name in zip(self.components, manifests)
            }
            if not any(exact.values()):
                raise ConfigurationError(
                    f"all weights of mixture {self.name!r} ({', '.join(exact)}) from step {start} on are zero.",
                    "Give a component a positive weight.",
                )
            result.append((start, ramp, exact))
        return result

    def by_name(self) -> "Mixture":
        """The same mixture with components sorted by domain name, as batches need it."""
        components = sorted(zip(self.manifests(), self.components.items()))
        return dataclasses.replace(self, components=dict(item for _, item in components))

    def manifests(self) -> dict[str, Manifest]:
        """Domain name -> manifest, in the order of `components`.

        The domain of a task name is that name. The domain of a cache directory is the name in its manifest, however
        the path is spelled.

        Raises CacheError for the first missing or unreadable cache, and ConfigurationError for two components with
        one name.
        """
        result: dict[str, Manifest] = {}
        for component in self.components:
            directory = self._directory(component)
            manifest = load_manifest(directory)
            name = manifest.name if os.sep in component or directory == component else component
            if name in result:
                raise ConfigurationError(
                    f"mixture {self.name!r} has two components named {name!r}.", "Name each cache once."
                )
            result[name] = manifest
        return result

    def _directory(self, component: str) -> str:
        candidates = [*(storage.join(d, *component.split(":")) for d in self.cache_dirs), component]
        for candidate in candidates:
            if storage.exists(storage.join(candidate, layout.MANIFEST)):
                return candidate
        for candidate in candidates:
            if layout.looks_like_cache(storage.list_files(candidate)):
                return candidate  # unfinished: loading its manifest raises the right error
        where = " or ".join(self.cache_dirs) or "the working directory"
        known = [f.name for d in self.cache_dirs for f in find_caches(d) if f.manifest]
        close = difflib.get_close_matches(component, known, n=1)
        hint = f"Did you mean {close[0]!r}? " if close else ""
        listing = f"castor tasks list {self.cache_dirs[0] if self.cache_dirs else '.'} shows the existing caches"
        owner = "" if self.name == component else f"mixture {self.name!r}: "
        raise CacheError(
            f"{owner}there is no task cache {component!r} in {where}.",
            f"{hint}Make it with castor data tokenize; {listing}{': ' + ', '.join(known) if known else ''}.",
        )


def resolve_mixture(mixture: "str | Mixture | Mapping[str, float]", tasks_dir: str | None = None) -> Mixture:
    """A mixture whose components all exist.

    mixture: a Mixture; component -> weight; the name of a mixture bound in gin (`five/tasks.Mixture.components =
    ...`); or the name or directory of one task.

    tasks_dir: directory searched before the mixture's own cache_dirs.

    Raises CacheError for a missing cache, and ConfigurationError for an invalid mixture.
    """
    if isinstance(mixture, str):
        mixture = _from_gin(mixture) or Mixture(mixture, {mixture: 1})
    elif isinstance(mixture, Mapping):
        mixture = Mixture(components=mixture)
    elif not isinstance(mixture, Mixture):
        raise ConfigurationError(
            f"{mixture!r} is not a mixture.", "Give a task name, a cache directory, or @NAME/tasks.Mixture() in gin."
        )
    if tasks_dir:
        tasks_dir = os.fspath(tasks_dir)
        mixture = dataclasses.replace(
            mixture, cache_dirs=(tasks_dir, *(d for d in mixture.cache_dirs if d != tasks_dir))
        )
    mixture.manifests()
    return mixture


def _from_gin(name: str) -> Mixture | None:
    if not name.isidentifier():
        return None
    try:
        gin.query_parameter(f"{name}/tasks.Mixture.components")
    except ValueError:
        return None
    with gin.config_scope(name):
        mixture = Mixture()
    return dataclasses.replace(mixture, name=name) if mixture.name == Mixture.name else mixture


def find_vocabulary(manifest: Manifest) -> str:
    """The directory of the vocabulary that a cache was made with.

    The path in the manifest is tried first. Next come directories of the same name in the cache and its two parent
    folders, so that a copied output folder finds its own vocabulary.

    manifest: manifest of the cache.

    Raises VocabularyError if the vocabulary is in none of them, or if another vocabulary is found in its place.
    """
    wanted, path = manifest.vocabulary.get("fingerprint", ""), str(manifest.vocabulary.get("path", ""))
    name = os.path.basename(path.rstrip("/")) or "vocabulary"
    around = (storage.join(manifest.directory, *([".."] * up), name) for up in range(3))
    other = ""
    for candidate in (path, *around):
        if candidate and storage.exists(storage.join(candidate, layout.MANIFEST)):
            try:
                found = storage.read_json(storage.join(candidate, layout.MANIFEST)).get("vocabulary_fingerprint")
            except (ValueError, OSError, AttributeError):
                found = None
            if found == wanted:
                return storage.normal(candidate)
            other = other or candidate
    if other:
        raise VocabularyError(
            f"{other} is not the vocabulary {wanted[:12]} that cache {manifest.directory} was made with.",
            "Tokenize the corpus again, or restore the original vocabulary.",
        )
    raise VocabularyError(
        f"the vocabulary of cache {manifest.directory} is not at {path or 'any path: its manifest names none'}.",
        "Restore the vocabulary at that path.",
    )
