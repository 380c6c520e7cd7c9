"""Engine binaries at pinned versions, fetched once with pip, mvn and go, and verified. They are kept in

    $CASTOR_ENGINES, or $XDG_CACHE_HOME/castor/engines, or ~/.cache/castor/engines

pip fetches Flink, whose hash is pinned here. Maven fetches Beam's Flink runner and checks each file against the
repository's checksum. Go builds Prism and the bucket emulator; Go records the module's hash in the program, and that
hash is pinned here. An interrupted fetch leaves nothing behind, and concurrent fetches of the same package wait for
each other. A package is never fetched twice, so an engine that ran once runs offline.
"""

import contextlib
import dataclasses
import fcntl
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence

from castor.launch.engines.processes import EngineError, tool

FLINK_VERSION = "1.19.3"
_FLINK_SHA256 = "4a58e3a1fb7d83340bc96b6c080624c6d792d69fae5d294b96224775204a9c60"
_FLINK_JARS = ("flink-dist-", "log4j-")

_FETCH_SECONDS = 1200


@dataclasses.dataclass(frozen=True)
class GoProgram:
    """A Go command at a pinned version.

    name: file name of the program.
    package: import path of the command.
    version: version of its module.
    sum: `h1` hash of the module (golang.org/ref/mod), which Go records in the program.
    """

    name: str
    package: str
    version: str
    sum: str


PRISM = GoProgram(
    "prism", "github.com/apache/beam/sdks/v2/go/cmd/prism", "v2.77.0", "h1:RsC61pHEvtySEHAURQyP/+CVOJm/hy5hewuG9JF0+Ow="
)
FAKE_GCS = GoProgram(
    "fake-gcs-server", "github.com/fsouza/fake-gcs-server", "v1.56.1", "h1:K03sAvbLvDz4hAynpCCUqnNRp+ik9JFSvHbkD/wTPOU="
)


def home() -> pathlib.Path:
    """The folder in which fetched engines are kept."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(os.environ.get("CASTOR_ENGINES") or os.path.join(cache, "castor", "engines"))


def java() -> str:
    """Path of the Java program. Flink 1.19 and Beam support Java 11 and 17."""
    name = os.path.join(os.environ["JAVA_HOME"], "bin", "java") if os.environ.get("JAVA_HOME") else "java"
    return tool(name, "Flink", "Install a Java 17 runtime (Debian: openjdk-17-jre-headless) or set JAVA_HOME.")


def flink() -> list[pathlib.Path]:
    """The jars of the Flink distribution that a cluster needs: flink-dist and log4j."""
    folder = _once(f"flink-{FLINK_VERSION}", _fetch_flink)
    return sorted(folder.glob("*.jar"))


def flink_job_server() -> list[pathlib.Path]:
    """The jars of Beam's Flink job server: those of pom.xml, or the single jar named by $CASTOR_FLINK_JOB_SERVER."""
    if named := os.environ.get("CASTOR_FLINK_JOB_SERVER"):
        if not os.path.isfile(named):
            raise EngineError(
                f"CASTOR_FLINK_JOB_SERVER={named}: no such file.", "Set it to the job server's jar, or unset it."
            )
        return [pathlib.Path(named)]
    pom = pathlib.Path(__file__).with_name("pom.xml").read_bytes()
    import hashlib

    folder = _once(f"flink-job-server-{hashlib.sha256(pom).hexdigest()[:12]}", _fetch_job_server)
    return sorted(folder.glob("*.jar"))


def program(wanted: GoProgram) -> pathlib.Path:
    """Path of a Go command, built on first use."""
    return _once(f"{wanted.name}-{wanted.version}", _Build(wanted)) / wanted.name


def _once(name: str, fetch: Callable[[pathlib.Path], None]) -> pathlib.Path:
    """The folder `name`; if missing, created atomically and filled by `fetch(folder)`."""
    folder = home() / name
    if folder.is_dir():
        return folder
    home().mkdir(parents=True, exist_ok=True)
    with _locked(home() / f".{name}.lock"):
        if not folder.is_dir():
            staging = home() / f".{name}-{uuid.uuid4().hex}"
            staging.mkdir()
            try:
                print(f"castor: fetching {name} into {home()}", file=sys.stderr, flush=True)
                fetch(staging)
                staging.rename(folder)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    return folder


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch_flink(folder: pathlib.Path) -> None:
    """Takes the jars out of apache-flink-libraries, which packs Flink's distribution. Its setup.py is never run."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        wanted = pathlib.Path(scratch, "requirements.txt")
        wanted.write_text(f"apache-flink-libraries=={FLINK_VERSION} --hash=sha256:{_FLINK_SHA256}\n")
        options = [
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary=:all:",
            "--require-hashes",
            f"--dest={scratch}",
            f"--requirement={wanted}",
        ]
        _call([*_pip(), *options], "Flink's distribution")
        (archive,) = pathlib.Path(scratch).glob("*.tar.gz")
        with tarfile.open(archive) as members:
            for member in members:
                name = os.path.basename(member.name)
                if "/deps/lib/" in member.name and name.startswith(_FLINK_JARS) and name.endswith(".jar"):
                    with open(folder / name, "wb") as file:
                        shutil.copyfileobj(members.extractfile(member), file)


def _pip() -> list[str]:
    for command in ([sys.executable, "-P", "-m", "pip"], ["pip"], ["python3", "-m", "pip"], ["uvx", "pip"]):
        if (
            shutil.which(command[0])
            and not subprocess.run([*command, "--version"], capture_output=True, check=False).returncode
        ):
            return command
    raise EngineError(
        "fetching Flink needs pip, which was not found in this environment or on the PATH.", "Install pip or uv."
    )


def _fetch_job_server(folder: pathlib.Path) -> None:
    maven = tool(
        "mvn",
        "fetching Beam's Flink job server",
        "Install Maven (Debian: maven), or set CASTOR_FLINK_JOB_SERVER to its jar.",
    )
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copy(pathlib.Path(__file__).with_name("pom.xml"), scratch)
        goal = ["dependency:copy-dependencies", f"-DoutputDirectory={folder}"]
        _call([maven, "--quiet", "--batch-mode", "--strict-checksums", *goal], "Beam's Flink job server", scratch)


@dataclasses.dataclass(frozen=True)
class _Build:
    """Runs `go install` and verifies the hash of the module that the program was built from."""

    wanted: GoProgram

    def __call__(self, folder: pathlib.Path) -> None:
        wanted = self.wanted
        go = tool("go", f"building {wanted.name}", "Install Go 1.25 or later.")
        environment = {"GOBIN": str(folder), "GOFLAGS": "-buildvcs=false"}
        _call([go, "install", f"{wanted.package}@{wanted.version}"], wanted.name, environment=environment)
        lines = subprocess.run(
            [go, "version", "-m", folder / wanted.name], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        found = next((line.split()[1:] for line in lines if line.split()[:1] == ["mod"]), [])
        if found[1:] != [wanted.version, wanted.sum]:
            raise EngineError(
                f"{wanted.name} was built from {' '.join(found)}, not from {wanted.version} {wanted.sum}.",
                "Do not trust this Go proxy.",
            )


def _call(
    command: Sequence[str], what: str, folder: str | None = None, environment: dict[str, str] | None = None
) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=_FETCH_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(
            f"fetching {what} took over {_FETCH_SECONDS} s.", "Check the network, then run the same command again."
        ) from error
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()] or lines
        raise EngineError(
            f"{what} could not be fetched: {' '.join(errors[:3])[:600]}.",
            "The first start of an engine needs the package registries; later starts work offline.",
        )
