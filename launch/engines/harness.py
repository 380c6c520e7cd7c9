"""Beam's Python SDK harness as a process of its own: what a runner starts for each worker where there are no containers.

Beam's PROCESS environment is a command that a runner starts with --id, --provision_endpoint and the other endpoints. It is to ask the
provision service for the pipeline's options, and then to be Beam's worker. The interpreter, the folder and the module path are those of the
launcher, so a worker finds what the launcher finds, relative paths included; nothing is staged or installed.
"""

import argparse
import json
import os
import pathlib
import shlex
import sys
from collections.abc import Sequence

# A worker has dozens of threads, and glibc keeps what each has freed in arenas that the others do not draw from: two of them for all.
ALLOCATOR = {"MALLOC_ARENA_MAX": "2"}


def process_options(folder: pathlib.Path) -> tuple[str, str]:
    """Beam's options for workers that are processes like this one. The command that starts one is written to `folder`."""
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
    command = folder / "harness.sh"
    lines = (
        "#!/bin/sh",
        f"cd {shlex.quote(os.getcwd())} || exit 1",
        f"export PYTHONPATH={shlex.quote(path)} PYTHONHASHSEED=0",
        f'exec {shlex.quote(sys.executable)} -P -m castor.launch.engines.harness "$@"',
    )
    command.write_text("".join(f"{line}\n" for line in lines))
    command.chmod(0o700)
    return "--environment_type=PROCESS", f"--environment_config={json.dumps({'command': str(command)})}"


def environment(
    worker_id: str, provision_endpoint: str, logging_endpoint: str = "", control_endpoint: str = ""
) -> dict[str, str]:
    """The environment variables that `apache_beam.runners.worker.sdk_worker_main` reads, from the provision service of a runner."""
    import grpc
    from apache_beam.portability.api import beam_provision_api_pb2, beam_provision_api_pb2_grpc
    from google.protobuf import json_format

    with grpc.insecure_channel(provision_endpoint) as channel:
        stub = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        request = beam_provision_api_pb2.GetProvisionInfoRequest()
        info = stub.GetProvisionInfo(request, metadata=[("worker_id", worker_id)], timeout=60).info
    return {
        "WORKER_ID": worker_id,
        "PIPELINE_OPTIONS": json_format.MessageToJson(info.pipeline_options),
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
        "LOGGING_API_SERVICE_DESCRIPTOR": f'url: "{info.logging_endpoint.url or logging_endpoint}"',
        "CONTROL_API_SERVICE_DESCRIPTOR": f'url: "{info.control_endpoint.url or control_endpoint}"',
        **({"STATUS_API_SERVICE_DESCRIPTOR": f'url: "{info.status_endpoint.url}"'} if info.status_endpoint.url else {}),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Becomes the worker: the process that the runner started is the one it stops."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in (
        "id",
        "provision_endpoint",
        "logging_endpoint",
        "control_endpoint",
        "artifact_endpoint",
        "semi_persist_dir",
    ):
        parser.add_argument(f"--{name}", default="")
    arguments = [
        argument.replace("='", "=").rstrip("'") for argument in (sys.argv[1:] if argv is None else argv)
    ]  # Prism quotes the id
    known, _ = parser.parse_known_args(arguments)
    variables = environment(known.id, known.provision_endpoint, known.logging_endpoint, known.control_endpoint)
    os.execve(
        sys.executable,
        [sys.executable, "-P", "-m", "apache_beam.runners.worker.sdk_worker_main"],
        ALLOCATOR | os.environ | variables,
    )


if __name__ == "__main__":
    main()
