"""Checks the arguments of `Batches` against each other and against the manifests of the caches.

No shard is read here: wrong arguments are reported before any cache is opened.
"""

from collections.abc import Mapping
from typing import Any

from castor.tasks.batches.catalog import Mixture
from castor.tasks.batches.component import FEATURE
from castor.tasks.cache.manifest import Manifest
from castor.tasks.checks import check_integer, is_integer
from castor.tasks.errors import ConfigurationError, VocabularyError
from castor.tasks.mixing import packing, schedule


def check_arguments(batch_sizes: schedule.BatchSizes, lengths, seed, shard, num_shards, method) -> None:
    """Raises ConfigurationError for an invalid argument; the arguments are those of `Batches`.

    batch_sizes: the argument batch_size as BatchSizes.

    method: the argument packing.
    """
    for size in batch_sizes.sizes:
        if not is_integer(num_shards, at_least=1) or size % num_shards:
            raise ConfigurationError(
                f"batch_size {size} is not divisible by {num_shards!r} shards.",
                "Choose BATCH_SIZE as a multiple of the number of shards.",
            )
    if not is_integer(shard, at_least=0, at_most=num_shards - 1):
        raise ConfigurationError(f"shard {shard!r} is not one of the {num_shards} shards 0 to {num_shards - 1}.")
    if (
        not isinstance(lengths, Mapping)
        or FEATURE not in lengths
        or not all(is_integer(length, at_least=1) for length in lengths.values())
    ):
        raise ConfigurationError(
            "lengths must be {'targets': L} and a capacity for every other feature, all positive integers, "
            f"not {lengths!r}.",
            "Bind TASK_FEATURE_LENGTHS.",
        )
    check_integer("seed", seed, remedy="Bind RANDOM_SEED to an integer.")
    if method not in packing.METHODS:
        raise ConfigurationError(
            f"packing method {method!r} is unknown.", f"The methods are {', '.join(packing.METHODS)}."
        )
    if method == "concat_and_split" and len(lengths) > 1:
        raise ConfigurationError(
            "concat_and_split packs exactly one feature.", "Choose another packing method, or load targets alone."
        )


def check_features(
    mixture: Mixture, manifests: Mapping[str, Manifest], lengths: Mapping[str, int]
) -> dict[str, Mapping[str, Any]]:
    """Feature -> its declaration in the manifests, for every feature of `lengths` other than the tokens.

    mixture: the mixture, for its name in error messages.

    manifests: component -> manifest.

    lengths: feature -> capacity of a row.

    Raises ConfigurationError for a feature that no cache has, that has no fixed shape, or that differs between caches.
    """
    result = {}
    for name in lengths:
        if name == FEATURE:
            continue
        specs = {domain: manifest.features[name] for domain, manifest in manifests.items() if name in manifest.features}
        if not specs:
            raise ConfigurationError(
                f"no cache of mixture {mixture.name!r} has a feature {name!r}.",
                f"Remove {name!r} from TASK_FEATURE_LENGTHS.",
            )
        (first, spec), *others = specs.items()
        if None in spec.get("shape", [None])[1:]:
            raise ConfigurationError(
                f"feature {name!r} of {first!r} has a variable shape: {spec}.",
                f"Remove {name!r} from TASK_FEATURE_LENGTHS.",
            )
        for domain, other in others:
            if other != spec:
                raise ConfigurationError(
                    f"feature {name!r} is {spec} in {first!r} and {other} in {domain!r}.",
                    f"Tokenize both in the same way, or remove {name!r} from TASK_FEATURE_LENGTHS.",
                )
        result[name] = spec
    return result


def check_vocabularies(mixture: Mixture, manifests: Mapping[str, Manifest], vocabulary: Any) -> tuple[str, int]:
    """The fingerprint of the vocabulary of all caches, and its number of ids (0 if the caches do not record it).

    mixture: the mixture, for its name in error messages.

    manifests: component -> manifest.

    vocabulary: None, or the required Vocabulary or its fingerprint.

    Raises VocabularyError if the caches have different vocabularies or another one than `vocabulary`.
    """
    remedy = "Tokenize the corpora with one vocabulary, or train with the vocabulary of the caches."
    required = getattr(vocabulary, "fingerprint", vocabulary)
    first, expected, size = "the run", required, 0
    for manifest in manifests.values():
        found = manifest.vocabulary.get("fingerprint", "")
        if expected is None:
            first, expected = f"cache {manifest.directory}", found
        elif found != expected:
            raise VocabularyError(
                f"mixture {mixture.name!r}: cache {manifest.directory} was made with vocabulary {found[:12]}, "
                f"{first} has vocabulary {str(expected)[:12]}.",
                remedy,
            )
        size = int(manifest.vocabulary.get("size", 0) or 0)
    return str(expected), size
