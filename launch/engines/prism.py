"""Beam's Prism runner on this machine: one process that runs pipelines and starts the Python harness."""

import contextlib
import dataclasses
from collections.abc import Iterator

import gin
from castor.launch.engines import harness, packages
from castor.launch.engines.processes import Engine, free_ports, listens, running, workspace


@gin.configurable(module="engines")
@dataclasses.dataclass(frozen=True)
class Prism:
    """The Prism runner.

    start_seconds: how long Prism may take to become ready.
    """

    start_seconds: float = 60.0

    def prepare(self) -> None:
        """Fetches missing packages. Raises EngineError if a required program is not installed."""
        packages.program(packages.PRISM)

    @contextlib.contextmanager
    def start(self) -> Iterator[Engine]:
        """Starts Prism, waits until its port accepts connections, and stops Prism on exit."""
        program = packages.program(packages.PRISM)
        with workspace("prism") as folder, running(folder) as start:
            (port,) = free_ports(1)
            server = start(
                "prism", [program, f"--job_port={port}", "--serve_http=false", "--log_kind=text", "--log_level=warn"]
            )
            server.wait_for(lambda: listens(port), self.start_seconds)
            address = f"localhost:{port}"
            options = ("--runner=PortableRunner", f"--job_endpoint={address}", *harness.process_options(folder))
            yield Engine("prism", address, options, folder, {"prism": packages.PRISM.version})
