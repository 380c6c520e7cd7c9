"""A Flink cluster on this machine: a job manager, task managers and Beam's job server, each in its own Java process.

The task managers start the Python harness in separate processes (Beam's PROCESS environment). Every source is bounded,
so jobs run in Flink's batch mode. A stage ends before the next shuffle begins, and a bundle is a task's whole input.
Restarts are off: one failed task fails the job, which then has committed nothing.
"""

import contextlib
import dataclasses
import json
import pathlib
import urllib.request
from collections.abc import Iterator
from typing import Any

import gin
from castor.launch.engines import harness, packages
from castor.launch.engines.processes import Engine, free_ports, listens, running, workspace

_LOGGING = """\
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = console
appender.console.name = console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss.SSS} %-5p %c{1} %m%n
"""
# The packages that Flink's own start script opens on Java 17.
_OPENED = (
    *("java.lang", "java.lang.reflect", "java.net", "java.io", "java.nio", "java.text", "java.time", "java.util"),
    *("java.util.concurrent", "java.util.concurrent.atomic", "java.util.concurrent.locks", "sun.net.util"),
)
_CLUSTER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
_JOB_SERVER = "org.apache.beam.runners.flink.FlinkJobServerDriver"
_FRAMEWORK_HEAP_MB = 128
_FRAMEWORK_DIRECT_MB = 128
_SHUFFLE_BUFFERS = 64
"""Buffers of 32 KiB per shuffle that a task writes. Flink's default of 512 suits a few wide shuffles; a Castor job may
have twenty narrow ones."""


@gin.configurable(module="engines")
@dataclasses.dataclass(frozen=True)
class Flink:
    """A Flink cluster for one machine. Memory is in MiB.

    task_managers: number of task manager processes.
    slots: concurrent tasks per task manager; the parallelism of a job is task_managers * slots.
    heap_mb: task heap of a task manager.
    managed_mb: sort memory of a task manager.
    network_mb: shuffle buffers of a task manager.
    direct_mb: memory of a task manager for exchange with its Python processes.
    job_manager_mb: heap of the job manager.
    job_server_mb: heap of the job server.
    keep_harness_seconds: how long an idle Python process waits for the next stage; starting one costs seconds of CPU.
    start_seconds: how long each process may take to become ready.
    """

    task_managers: int = 2
    slots: int = 1
    heap_mb: int = 768
    managed_mb: int = 256
    network_mb: int = 512
    direct_mb: int = 1024
    job_manager_mb: int = 512
    job_server_mb: int = 512
    keep_harness_seconds: float = 60.0
    start_seconds: float = 120.0

    def prepare(self) -> None:
        """Fetches missing packages. Raises EngineError if a required program is not installed."""
        packages.java(), packages.flink(), packages.flink_job_server()

    @contextlib.contextmanager
    def start(self) -> Iterator[Engine]:
        """Starts the cluster and the job server, waits for all task managers, and stops everything on exit."""
        with workspace("flink") as folder, running(folder) as start:
            rpc, blob, rest = free_ports(3)
            self._configure(folder, rpc, blob, rest)
            # Beam reuses a harness across stages only if Flink's own class loader has Beam's jars.
            jars = [*packages.flink(), *packages.flink_job_server()]
            heap = f"-Djobmanager.memory.heap.size={self.job_manager_mb}m"
            manager = start(
                "job-manager", [*self._jvm(folder, self.job_manager_mb, jars), _CLUSTER, "--configDir", folder, heap]
            )
            manager.wait_for(_Answers(rest), self.start_seconds)
            direct = self.network_mb + self.direct_mb + _FRAMEWORK_DIRECT_MB
            command = [
                *self._jvm(folder, self.heap_mb + _FRAMEWORK_HEAP_MB, jars, direct),
                _TASK_MANAGER,
                "--configDir",
                folder,
            ]
            workers = [start(f"task-manager-{i}", command) for i in range(self.task_managers)]
            with self._job_server(start, folder, f"localhost:{rest}") as options:
                for worker in workers:
                    worker.wait_for(_Answers(rest, self.task_managers), self.start_seconds)
                parallelism = self.task_managers * self.slots
                cached = f"--environment_cache_millis={round(1000 * self.keep_harness_seconds)}"
                options = (*options, f"--parallelism={parallelism}", cached, *harness.process_options(folder))
                facts = {"flink": _ask(rest)["flink-version"], "task managers": str(self.task_managers)}
                yield Engine("flink", f"localhost:{rest}", options, folder, facts)

    @contextlib.contextmanager
    def connect(self, master: str, image: str = "") -> Iterator[Engine]:
        """Starts a job server for an existing cluster, which must run the job server's version of Flink.

        master: host:port of the cluster's REST service.
        image: container image of the workers; empty if the caller sets Beam's environment options.
        """
        with workspace("flink") as folder, running(folder) as start:
            (folder / "log4j.properties").write_text(_LOGGING)
            (folder / "config.yaml").write_text("classloader.resolve-order: parent-first\n")
            environment = ("--environment_type=DOCKER", f"--environment_config={image}") if image else ()
            with self._job_server(start, folder, master) as options:
                yield Engine("flink", master, (*options, *environment), folder)

    @contextlib.contextmanager
    def _job_server(self, start, folder: pathlib.Path, master: str) -> Iterator[tuple[str, ...]]:
        job, artifact, expansion = free_ports(3)
        jars = [*packages.flink_job_server(), *packages.flink()]
        ports = [
            f"--flink-master={master}",
            f"--job-port={job}",
            f"--artifact-port={artifact}",
            f"--expansion-port={expansion}",
        ]
        files = [f"--flink-conf-dir={folder}", f"--artifacts-dir={folder / 'artifacts'}"]
        server = start("job-server", [*self._jvm(folder, self.job_server_mb, jars), _JOB_SERVER, *ports, *files])
        server.wait_for(lambda: listens(job), self.start_seconds)
        yield "--runner=PortableRunner", f"--job_endpoint=localhost:{job}", f"--artifact_endpoint=localhost:{artifact}"

    def _jvm(self, folder: pathlib.Path, megabytes: int, jars: list[pathlib.Path], direct: int = 0) -> list[str]:
        """The Java command line up to the class name.

        Only the C1 compiler is used: a job of a few minutes does not amortize the cost of C2.

        megabytes: heap size in MiB.
        direct: direct memory in MiB; 0 for as much as the heap.
        """
        opened = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENED]
        logging = f"-Dlog4j.configurationFile={folder / 'log4j.properties'}"
        path = ":".join(str(jar) for jar in jars)
        memory = [f"-Xmx{megabytes}m", f"-XX:MaxDirectMemorySize={direct or megabytes}m"]
        return [packages.java(), "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", *memory, logging, *opened, "-cp", path]

    def _configure(self, folder: pathlib.Path, rpc: int, blob: int, rest: int) -> None:
        settings = {
            "jobmanager.rpc.address": "localhost",
            "jobmanager.rpc.port": rpc,
            "jobmanager.bind-host": "localhost",
            "blob.server.port": blob,
            "rest.address": "localhost",
            "rest.bind-address": "localhost",
            "rest.port": rest,
            "taskmanager.host": "localhost",
            "taskmanager.bind-host": "localhost",
            "taskmanager.numberOfTaskSlots": self.slots,
            "taskmanager.cpu.cores": self.slots,
            "taskmanager.memory.framework.heap.size": f"{_FRAMEWORK_HEAP_MB}m",
            "taskmanager.memory.framework.off-heap.size": f"{_FRAMEWORK_DIRECT_MB}m",
            "taskmanager.memory.task.heap.size": f"{self.heap_mb}m",
            "taskmanager.memory.task.off-heap.size": f"{self.direct_mb}m",
            "taskmanager.memory.managed.size": f"{self.managed_mb}m",
            "taskmanager.memory.network.min": f"{self.network_mb}m",
            "taskmanager.memory.network.max": f"{self.network_mb}m",
            "taskmanager.network.sort-shuffle.min-buffers": _SHUFFLE_BUFFERS,
            "taskmanager.memory.jvm-metaspace.size": "256m",
            "taskmanager.memory.jvm-overhead.min": "128m",
            "taskmanager.memory.jvm-overhead.max": "128m",
            "parallelism.default": self.task_managers * self.slots,
            "restart-strategy.type": "none",
            "classloader.resolve-order": "parent-first",
            "io.tmp.dirs": folder / "tmp",
        }
        (folder / "tmp").mkdir()
        (folder / "config.yaml").write_text("".join(f"{key}: {value}\n" for key, value in settings.items()))
        (folder / "log4j.properties").write_text(_LOGGING)


@dataclasses.dataclass(frozen=True)
class _Answers:
    """Whether a cluster's REST service responds and reports at least `task_managers` of them."""

    port: int
    task_managers: int = 0

    def __call__(self) -> bool:
        overview = _ask(self.port)
        return overview is not None and overview.get("taskmanagers", 0) >= self.task_managers


def _ask(port: int) -> dict[str, Any] | None:
    """The cluster overview from the REST service; None if the service does not respond."""
    try:
        with urllib.request.urlopen(f"http://localhost:{port}/overview", timeout=5) as answer:
            return json.load(answer)
    except (OSError, ValueError):
        return None
