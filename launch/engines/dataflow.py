"""A job as Dataflow would get it: its options, its graph and its workers' environment, made and checked here, and sent only when told to.

    castor launch dataflow web --project=P --region=R --temp_location=gs://B/tmp --sdk_container_image=IMAGE ...      validates, prints, sends nothing
    castor launch dataflow web ... --submit                sends it, waits, and commits the output
    castor launch dataflow web ... --submit --detach       sends it and returns; when it is done: castor launch commit OUTPUT

Beam's own options are Beam's to name and to check; this file gives the defaults that a Castor job wants and refuses what no worker could use.
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
"""machine_type: 8 GB a core, since a sandbox may take 2 to 4 GB beside its worker. Autoscaling ends at max_num_workers."""

_REQUIRED = {
    "project": "--project=PROJECT",
    "region": "--region=REGION",
    "temp_location": "--temp_location=gs://BUCKET/tmp",
}
_PATHS = ("output", "input_root", "corpus", "vocabulary", "corpora", "replay_of")


@dataclasses.dataclass(frozen=True)
class Submission:
    """What would be sent. options: by name, defaults of Beam left out. steps: (name, primitive transforms, shuffles) of each transform that the job is composed of.
    images: the workers' containers. artifacts: files staged for them. job: Beam's Dataflow job (apiclient.Job).
    """

    options: dict[str, Any]
    steps: tuple[tuple[str, int, int], ...]
    images: tuple[str, ...]
    artifacts: tuple[str, ...]
    job: Any


def options(name: str, beam_args: Sequence[str]) -> list[str]:
    """Beam's options for a job called `name`: those given, then Castor's defaults. Raises ConfigurationError for what must be given and is not."""
    given = {a.removeprefix("--").partition("=")[0] for a in beam_args if a.startswith("--")}
    for option, example in _REQUIRED.items():
        if option not in given:
            raise ConfigurationError(f"castor launch dataflow: --{option} is missing.", f"Write {example}.")
    for argument in beam_args:
        option, _, value = argument.removeprefix("--").partition("=")
        if option in ("temp_location", "staging_location") and not storage.is_remote(
            value
        ):  # Beam would go and make a bucket
            raise ConfigurationError(
                f"castor launch dataflow: {argument} is no path of a bucket.", f"Write --{option}=gs://BUCKET/PATH."
            )
    if not given & {"sdk_container_image", "setup_file"}:
        raise ConfigurationError(
            "castor launch dataflow: what is to be installed on the workers?",
            "Name a container (--sdk_container_image=IMAGE, built from launch/engines/Dockerfile) or --setup_file=setup.py.",
        )
    added = {"job_name": "castor-" + re.sub("[^a-z0-9]+", "-", name.lower()).strip("-"), **_DEFAULTS}
    if "sdk_container_image" in given:
        added["sdk_location"] = "container"  # nothing is installed when a worker starts: the image is the environment
    return [
        *beam_args,
        "--no_save_main_session",
        *(f"--{option}={value}" for option, value in added.items() if option not in given),
    ]


def check_paths(job: Any) -> None:
    """Raises ConfigurationError for a path of this machine: workers elsewhere cannot reach it."""
    for field in _PATHS:
        value = getattr(job, field, None) or ()
        for path in (value,) if isinstance(value, str) else value:
            if not storage.is_remote(path):
                raise ConfigurationError(
                    f"{field.upper()} is {path!r}, a path of this machine, which Dataflow's workers cannot reach.",
                    "Copy it to gs://.",
                )


def translate(job: Any, beam_args: Sequence[str]) -> Submission:
    """Builds the pipeline and has Beam's own Dataflow runner validate and translate it, offline; nothing is sent and nothing is written.

    Raises ConfigurationError with all that Beam's validators object to.
    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner

    from castor.pipelines.execution import beam_options, staging

    parsed, _ = beam_options.parse([*beam_args, "--dry_run=True"])
    problems = PipelineOptionsValidator(parsed, DataflowRunner()).validate()
    if problems:
        raise ConfigurationError(
            f"castor launch dataflow: {' '.join(problems)}", "Beam's own options are described by Beam's documentation."
        )
    try:
        pipeline = beam.Pipeline(runner=DataflowRunner(), options=parsed)
        job.build(pipeline, storage.join(job.output, staging.PREFIX + "validated"))
        result = pipeline.run()
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"castor launch dataflow: Beam refuses the pipeline: {' '.join(str(error).split())[:500]}"
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
    """The submission in words."""
    shuffles = sum(step[2] for step in submission.steps)
    primitives = sum(step[1] for step in submission.steps)
    return [
        "options:",
        *(f"  --{key}={value}" for key, value in submission.options.items()),
        f"workers: {', '.join(submission.images) or 'no container'}; staged: {', '.join(submission.artifacts) or 'nothing'}",
        f"steps ({primitives} transforms, {shuffles} shuffles):",
        *(
            f"  {name}: {count} transforms" + (f", {groups} shuffles" if groups else "")
            for name, count, groups in submission.steps
        ),
    ]


def _step(proto, identifier: str) -> tuple[str, int, int]:
    """(name, primitive transforms, GroupByKeys) of a transform with all in it."""
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
