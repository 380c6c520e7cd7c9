"""Validates a job for Dataflow offline: options, pipeline graph and worker environment. Submits only with --submit.

    castor launch dataflow web --project=P --region=R --temp_location=gs://B/tmp --sdk_container_image=IMAGE ...
        validates and prints the job, and submits nothing
    castor launch dataflow web ... --submit
        submits the job, waits for it and commits the output
    castor launch dataflow web ... --submit --detach
        submits the job and returns; after the job has finished, run castor launch commit OUTPUT

Beam defines and checks its own options. This file adds the defaults for a Castor job, and rejects paths and options
that no worker could use.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from castor.tasks.errors import ConfigurationError
from castor.tasks.storage import storage

_DEFAULTS = {
    "runner": "DataflowRunner",
    "machine_type": "n2-highmem-4",
    "disk_size_gb": "100",
    "autoscaling_algorithm": "THROUGHPUT_BASED",
    "max_num_workers": "100",
    "experiments": "use_runner_v2",
}
"""machine_type: 8 GB per core, because each worker's sandbox may take another 2 to 4 GB. Autoscaling is bounded by
max_num_workers."""

_REQUIRED = {
    "project": "--project=PROJECT",
    "region": "--region=REGION",
    "temp_location": "--temp_location=gs://BUCKET/tmp",
}
_PATHS = ("output", "input_root", "corpus", "vocabulary", "corpora", "replay_of")


@dataclasses.dataclass(frozen=True)
class Submission:
    """A validated job, ready to submit.

    options: Beam options by name, without those at Beam's default.
    steps: (name, primitive transforms, shuffles) of each top-level transform.
    images: container images of the workers.
    artifacts: names of the files staged for the workers.
    job: Beam's Dataflow job (apiclient.Job).
    """

    options: dict[str, Any]
    steps: tuple[tuple[str, int, int], ...]
    images: tuple[str, ...]
    artifacts: tuple[str, ...]
    job: Any


def options(name: str, beam_args: Sequence[str]) -> list[str]:
    """Completes the Beam options of a job with Castor's defaults.

    name: the job's name, from which job_name is derived.
    beam_args: options of the command line; these take precedence.

    Raises ConfigurationError for a missing required option or a temporary folder outside a bucket.
    """
    given = {a.removeprefix("--").partition("=")[0] for a in beam_args if a.startswith("--")}
    for option, example in _REQUIRED.items():
        if option not in given:
            raise ConfigurationError(f"castor launch dataflow: --{option} is missing.", f"Write {example}.")
    for argument in beam_args:
        option, _, value = argument.removeprefix("--").partition("=")
        # Without a bucket here, Beam would create one.
        if option in ("temp_location", "staging_location") and not storage.is_remote(value):
            raise ConfigurationError(
                f"castor launch dataflow: {argument} is not a path in a bucket.",
                f"Write --{option}=gs://BUCKET/PATH.",
            )
    if not given & {"sdk_container_image", "setup_file"}:
        raise ConfigurationError(
            "castor launch dataflow: no environment is given for the workers.",
            "Give --sdk_container_image=IMAGE (built from launch/engines/Dockerfile) or --setup_file=setup.py.",
        )
    added = {"job_name": "castor-" + re.sub("[^a-z0-9]+", "-", name.lower()).strip("-"), **_DEFAULTS}
    if "sdk_container_image" in given:
        added["sdk_location"] = "container"  # workers install nothing at startup: the image has everything
    return [
        *beam_args,
        "--no_save_main_session",
        *(f"--{option}={value}" for option, value in added.items() if option not in given),
    ]


def check_paths(job: Any) -> None:
    """Raises ConfigurationError if an input or output path of the job is local: Dataflow workers could not reach it."""
    for field in _PATHS:
        value = getattr(job, field, None) or ()
        for path in (value,) if isinstance(value, str) else value:
            if not storage.is_remote(path):
                raise ConfigurationError(
                    f"{field.upper()} = {path!r} is a local path, which Dataflow workers cannot reach.",
                    "Copy it to gs://.",
                )


def translate(job: Any, beam_args: Sequence[str]) -> Submission:
    """Builds the pipeline and runs Beam's own Dataflow validation and translation offline. Submits and writes nothing.

    job: a configured data job.
    beam_args: complete options, from `options`.

    Raises ConfigurationError with all errors of Beam's validators.
    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner

    from castor.pipelines.execution import beam_options, staging

    parsed, _ = beam_options.parse([*beam_args, "--dry_run=True"])
    problems = PipelineOptionsValidator(parsed, DataflowRunner()).validate()
    if problems:
        raise ConfigurationError(
            f"castor launch dataflow: {' '.join(problems)}", "These options are described in Beam's documentation."
        )
    try:
        pipeline = beam.Pipeline(runner=DataflowRunner(), options=parsed)
        job.build(pipeline, storage.join(job.output, staging.PREFIX + "validated"))
        result = pipeline.run()
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"castor launch dataflow: Beam rejects the pipeline: {' '.join(str(error).split())[:500]}"
        ) from error
    proto = result.job.proto_pipeline
    return Submission(
        {key: value for key, value in sorted(parsed.get_all_options(drop_default=True).items()) if key != "dry_run"},
        tuple(
            _step(proto, step)
            for root in proto.root_transform_ids
            for step in proto.components.transforms[root].subtransforms
        ),
        tuple(sorted(set(_images(proto)))),
        tuple(sorted(set(_artifacts(proto)))),
        result.job,
    )


def lines(submission: Submission) -> list[str]:
    """The submission as text, one line per item."""
    shuffles = sum(step[2] for step in submission.steps)
    primitives = sum(step[1] for step in submission.steps)
    return [
        "options:",
        *(f"  --{key}={value}" for key, value in submission.options.items()),
        f"workers: {', '.join(submission.images) or 'no container'}; "
        f"staged: {', '.join(submission.artifacts) or 'nothing'}",
        f"steps ({primitives} transforms, {shuffles} shuffles):",
        *(
            f"  {name}: {count} transforms" + (f", {groups} shuffles" if groups else "")
            for name, count, groups in submission.steps
        ),
    ]


def _step(proto, identifier: str) -> tuple[str, int, int]:
    """(name, primitive transforms, GroupByKeys) of a composite transform, counted recursively."""
    transforms, queue, primitives, groups = proto.components.transforms, [identifier], 0, 0
    while queue:
        one = transforms[queue.pop()]
        if one.spec.urn == "beam:transform:group_by_key:v1":
            groups += 1
        if one.subtransforms and one.spec.urn != "beam:transform:group_by_key:v1":
            queue.extend(one.subtransforms)
        else:
            primitives += 1
    return transforms[identifier].unique_name, primitives, groups


def _images(proto):
    from apache_beam.portability.api import beam_runner_api_pb2

    for environment in proto.components.environments.values():
        if environment.urn == "beam:env:docker:v1":
            yield beam_runner_api_pb2.DockerPayload.FromString(environment.payload).container_image


def _artifacts(proto):
    from apache_beam.portability.api import beam_runner_api_pb2

    for environment in proto.components.environments.values():
        for dependency in environment.dependencies:
            yield beam_runner_api_pb2.ArtifactStagingToRolePayload.FromString(dependency.role_payload).staged_name
