"""Beam's Python SDK harness as a separate process, which a runner starts for each worker when there are no containers.

Beam's PROCESS environment is a command that a runner starts with --id, --provision_endpoint and other endpoints. The
command asks the provision service for the pipeline's options and then becomes Beam's worker. Interpreter, working
directory and module path are the launcher's, so a worker resolves the same modules and relative paths. Nothing is
staged or installed.
"""

import argparse
import json
import os
import pathlib
import shlex
import sys
from collections.abc import Sequence

# A worker has dozens of threads. By default glibc gives them separate arenas and does not share the freed memory
# between arenas, so limit them to two.
ALLOCATOR = {"MALLOC_ARENA_MAX": "2"}


def process_options(folder: pathlib.Path) -> tuple[str, str]:
    """Beam options for workers that are local processes.

    folder: where the worker start script, harness.sh, is written.
    """
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
    """Asks a runner's provision service for the environment of `apache_beam.runners.worker.sdk_worker_main`.

    worker_id: id that the runner assigned to this worker.
    provision_endpoint: host:port of the provision service.
    logging_endpoint: used if the provision service names none.
    control_endpoint: used if the provision service names none.
    """
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
    """Replaces this process by Beam's worker, so that the runner can stop the process that it started."""
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
    # Prism puts the id in quotes.
    arguments = [argument.replace("='", "=").rstrip("'") for argument in (sys.argv[1:] if argv is None else argv)]
    known, _ = parser.parse_known_args(arguments)
    variables = environment(known.id, known.provision_endpoint, known.logging_endpoint, known.control_endpoint)
    os.execve(
        sys.executable,
        [sys.executable, "-P", "-m", "apache_beam.runners.worker.sdk_worker_main"],
        ALLOCATOR | os.environ | variables,
    )


if __name__ == "__main__":
    main()
