"""A bucket on this machine: fake-gcs-server, an emulator of Google Cloud Storage.

The clients google-cloud-storage, gcsfs and tensorstore all work with the emulator.

with gcs.FakeGcs().start() as engine:  # sets the clients' environment variables, for this process and its children
    ...  # gs://castor/... exists
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
    """The emulator with one bucket.

    bucket: name of the bucket.
    start_seconds: how long the emulator may take to become ready.
    """

    bucket: str = "castor"
    start_seconds: float = 60.0

    def prepare(self) -> None:
        """Fetches missing packages. Raises EngineError if a required program is not installed."""
        packages.program(packages.FAKE_GCS)

    @contextlib.contextmanager
    def start(self) -> Iterator[Engine]:
        """Starts the emulator with an empty bucket, points the environment at the emulator, and undoes both on exit."""
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
