"""A bucket on this machine: fake-gcs-server, an emulator of Google Cloud Storage that google-cloud-storage, gcsfs and tensorstore speak to.

with gcs.FakeGcs().start() as engine:      # sets what they look for, for this process and those that it starts
    ...  # gs://castor/... is there
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator

import gin
from castor.launch.engines import packages
from castor.launch.engines.processes import Engine, free_ports, listens, running, workspace


@gin.configurable(module="engines")
@dataclasses.dataclass(frozen=True)
class FakeGcs:
    """bucket: its name. start_seconds: how long the emulator may take to answer."""

    bucket: str = "castor"
    start_seconds: float = 60.0

    def prepare(self) -> None:
        """Fetches what is not there. Raises EngineError naming what is missing."""
        packages.program(packages.FAKE_GCS)

    @contextlib.contextmanager
    def start(self) -> Iterator[Engine]:
        """The emulator with one empty bucket, in the environment's name; ended with the block."""
        program = packages.program(packages.FAKE_GCS)
        with workspace("gcs") as folder, running(folder) as start:
            (port,) = free_ports(1)
            address = f"http://127.0.0.1:{port}"
            (folder / "data" / self.bucket).mkdir(parents=True)
            where = [f"-public-host=127.0.0.1:{port}", f"-external-url={address}", f"-data={folder / 'data'}"]
            server = start(
                "fake-gcs-server",
                [
                    program,
                    "-scheme=http",
                    "-host=127.0.0.1",
                    f"-port={port}",
                    "-backend=memory",
                    "-log-level=warn",
                    *where,
                ],
            )
            server.wait_for(lambda: listens(port), self.start_seconds)
            variables = {
                "STORAGE_EMULATOR_HOST": address,
                "TENSORSTORE_GCS_HTTP_URL": address,
                "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
            }
            before = {name: os.environ.pop(name) for name in variables if name in os.environ}
            os.environ.update(variables)
            try:
                yield Engine("fake-gcs-server", address, (), folder, {"fake-gcs-server": packages.FAKE_GCS.version})
            finally:
                for name in variables:
                    os.environ.pop(name, None)
                os.environ.update(before)
