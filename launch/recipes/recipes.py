"""Recipes: stages from raw files to a trained model. A stage whose output is up to date is skipped.

A stage is one `castor` command line with gin files and bindings. Every stage runs in its own process, so that Beam,
TensorFlow and JAX never share one.

A data stage is up to date if its output's manifest has the fingerprint that the job would write now. That fingerprint
covers inputs, configuration and code. Every other stage leaves a stamp with the fingerprint of its command, its gin
files, its code and the stages that it needs. A second run therefore does nothing, and a changed filter reruns only the
stages that depend on it. Code means everything that a stage's modules and gin files import, including lazy imports,
templates and a user's own modules (tasks/fingerprint.py).

Strings in a stage may refer to the recipe's variables: "{OUTPUT}/tasks".
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import graphlib
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gin
from castor.launch import data_jobs, training_runs
from castor.tasks import configuration, fingerprint
from castor.tasks.errors import CastorError, ConfigurationError
from castor.tasks.storage import lock

_COMMAND = "castor.launch.command"
_CODE = {
    "train": ("castor.launch.commands.train",),
    "infer": ("castor.launch.commands.infer",),
    "evaluate": ("castor.launch.commands.evaluate",),
    "demo": ("castor.launch.recipes.demo_corpus",),  # a recipe runs only the corpus part
}
"""Root modules of each subcommand's code. A subcommand that is missing here depends on the code of all subcommands."""


@gin.configurable(module="launch.recipes")
@dataclasses.dataclass(frozen=True)
class Stage:
    """One command of a recipe.

    name: unique in the recipe; also names the stage's log and stamp.
    command: the castor subcommand and its plain arguments, e.g. "data web" or "infer --draw='a red square'".
    output: the directory or file that the stage writes.
    gin_files, bindings: gin configuration of the command; bindings map a macro or parameter to a Python value.
    needs: names of the stages whose outputs this stage reads.
    about: a few words on the stage, shown on the terminal.
    """

    name: str
    command: tuple[str, ...]
    output: str
    gin_files: tuple[str, ...] = ()
    bindings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    needs: tuple[str, ...] = ()
    about: str = ""


@gin.configurable("RefineStage", module="launch.recipes")
def refine_stage(
    modality: str,
    gin_files: tuple[str, ...],
    input_root: str,
    inputs: Sequence[str],
    num_shards: int,
    dead_letter_threshold: float,
    needs: tuple[str, ...] = (),
) -> Stage:
    """The stage `MODALITY`, which runs `castor data MODALITY`: raw files -> the corpus {OUTPUT}/corpora/MODALITY."""
    output = f"{{OUTPUT}}/corpora/{modality}"
    bindings = {
        "NAME": modality,
        "INPUT_ROOT": input_root,
        "INPUTS": inputs,
        "OUTPUT": output,
        "NUM_SHARDS": num_shards,
        "DEAD_LETTER_THRESHOLD": dead_letter_threshold,
    }
    about = f"raw {modality} files: parse, filter, deduplicate"
    return Stage(modality, ("data", modality), output, gin_files, bindings, needs, about)


@gin.configurable("TokenizeStage", module="launch.recipes")
def tokenize_stage(
    modality: str,
    num_shards: int,
    splits: Mapping[str, float],
    image_token_budget: int | None = None,
    gin_files: tuple[str, ...] = ("pipelines/tokenize.gin",),
) -> Stage:
    """The stage `tokenize_MODALITY`, which writes the task cache {OUTPUT}/tasks/MODALITY.

    The stage reads {OUTPUT}/corpora/MODALITY and {OUTPUT}/vocabulary.

    image_token_budget: maximum tokens per picture; None if the modality has no pictures.
    """
    output = f"{{OUTPUT}}/tasks/{modality}"
    bindings = {
        "NAME": modality,
        "CORPUS": f"{{OUTPUT}}/corpora/{modality}",
        "VOCABULARY": "{OUTPUT}/vocabulary",
        "OUTPUT": output,
        "NUM_SHARDS": num_shards,
        "SPLITS": splits,
    }
    if image_token_budget is not None:
        bindings["IMAGE_TOKEN_BUDGET"] = image_token_budget
    needs = (modality, "vocabulary")
    about = f"{modality} documents as token ids, shuffled"
    return Stage(f"tokenize_{modality}", ("data", "tokenize"), output, gin_files, bindings, needs, about)


@gin.configurable(module="launch.recipes")
@dataclasses.dataclass(frozen=True)
class Recipe:
    """Stages, and the variables that strings in the stages may refer to.

    title: heading of the recipe's table on the terminal.
    stages: stages and lists of stages, so that a recipe can extend the stages of a file that it includes. Stored as one
        flat tuple.
    variables: values by name. OUTPUT is required: the folder that holds everything the recipe writes.
    about: what the recipe does and how long it takes, shown on the terminal.

    Raises ConfigurationError if two stages share a name, a stage needs an unknown stage, or the needs form a cycle.
    """

    title: str
    stages: tuple[Stage, ...]
    variables: Mapping[str, Any]
    about: str = ""

    def __post_init__(self):
        lists = [(entry,) if isinstance(entry, Stage) else entry for entry in self.stages]
        object.__setattr__(self, "stages", tuple(itertools.chain.from_iterable(lists)))
        names = [stage.name for stage in self.stages]
        for stage in self.stages:
            if names.count(stage.name) > 1:
                raise ConfigurationError(
                    f"recipe: two stages are named {stage.name!r}.", "Give every stage a unique name."
                )
            for need in stage.needs:
                if need not in names:
                    raise ConfigurationError(
                        f"recipe: stage {stage.name!r} needs {need!r}, but the recipe has no such stage.",
                        f"Its stages: {', '.join(names)}.",
                    )
        try:
            tuple(graphlib.TopologicalSorter({s.name: s.needs for s in self.stages}).static_order())
        except graphlib.CycleError as error:
            raise ConfigurationError(
                f"recipe: the needs of its stages form a cycle: {' -> '.join(error.args[1])}.",
                "Remove one of these stages from the `needs` of another.",
            ) from error

    @property
    def output(self) -> pathlib.Path:
        return pathlib.Path(self.variables["OUTPUT"])

    def resolved(self) -> tuple[Stage, ...]:
        """The stages with the values of all variables filled in."""
        return tuple(_fill_stage(stage, self.variables) for stage in self.stages)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a stage ended.

    state: "up to date", "done" or "failed".
    seconds: wall-clock duration.
    exit_code: exit code of the stage's process; 0 if the stage was up to date.
    log: the log file; None if the stage was up to date.
    """

    stage: Stage
    state: str
    seconds: float
    exit_code: int = 0
    log: pathlib.Path | None = None


def run(
    recipe: Recipe,
    only: tuple[str, ...] = (),
    jobs: int = 2,
    listen: Callable[[str, str], None] = lambda name, state: None,
    held: lock.Held | None = None,
) -> list[Outcome]:
    """Runs the stages in dependency order and returns the outcomes of those that ended, in the recipe's order.

    After the first failure, running stages finish and no further stage starts. Every stage locks its own output.

    only: names of the stages to run; empty for all.
    jobs: maximum number of stages that run at once.
    listen: called with (stage name, state) at every change of state.
    held: the lock on the recipe's OUTPUT, if the caller holds it. Otherwise this function acquires the lock.

    Raises ConfigurationError if `only` names an unknown stage.
    """
    stages = {stage.name: stage for stage in recipe.resolved()}
    unknown = [name for name in only if name not in stages]
    if unknown:
        raise ConfigurationError(f"the recipe has no stage {', '.join(unknown)}.", f"Its stages: {', '.join(stages)}.")
    sorter = graphlib.TopologicalSorter({s.name: s.needs for s in stages.values()})
    sorter.prepare()
    with contextlib.nullcontext(held) if held else lock.hold(recipe.output, "OUTPUT") as held:
        return _run(recipe, stages, sorter, only, jobs, listen, held)


def _run(
    recipe: Recipe, stages: Mapping[str, Stage], sorter, only, jobs: int, listen, held: lock.Held
) -> list[Outcome]:
    folder = recipe.output / "stages"
    folder.mkdir(parents=True, exist_ok=True)
    outcomes: dict[str, Outcome] = {}
    check = threading.Lock()  # gin configuration is global, so stages are checked one at a time
    running: dict[concurrent.futures.Future, str] = {}
    children: set[subprocess.Popen] = set()
    with concurrent.futures.ThreadPoolExecutor(max_workers=jobs) as pool:
        try:
            while sorter.is_active():
                failed = any(o.state == "failed" for o in outcomes.values())
                for name in sorter.get_ready() if not failed else ():
                    if only and name not in only:
                        sorter.done(name)
                    else:
                        running[
                            pool.submit(_run_stage, stages[name], stages, folder, check, listen, children, held)
                        ] = name
                if not running:
                    if failed or not sorter.is_active():
                        break
                    continue
                done, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in done:
                    name = running.pop(future)
                    outcomes[name] = future.result()
                    listen(name, outcomes[name].state)
                    sorter.done(name)
        except BaseException:
            for child in list(children):
                _stop(child)
            raise
    return [outcomes[name] for name in stages if name in outcomes]


def is_up_to_date(stage: Stage, stages: Mapping[str, Stage], folder: pathlib.Path) -> bool:
    """Whether a run of `stage` with the code now on disk would reproduce exactly what its output already holds."""
    fingerprint.forget()
    if stage.command[0] == "data":
        try:
            return _job_is_up_to_date(stage)
        except CastorError:
            return False  # the stage's own run reports the error
    return pathlib.Path(stage.output).exists() and _stamp(folder, stage) == stage_fingerprint(stage, stages, folder)


def stage_fingerprint(stage: Stage, stages: Mapping[str, Stage], folder: pathlib.Path) -> str:
    """Fingerprint of a stage that leaves a stamp. Covers command, gin texts, bindings, code and the needed stages."""
    upstream = {}
    for need in stage.needs:
        manifest = pathlib.Path(stages[need].output) / "manifest.json"
        upstream[need] = (
            json.loads(manifest.read_text())["fingerprint"] if manifest.is_file() else _stamp(folder, stages[need])
        )
    texts = gin_texts(stage)
    return fingerprint.of_json(
        {
            "command": list(stage.command),
            "gin": texts,
            "bindings": sorted(f"{key} = {value!r}" for key, value in stage.bindings.items()),
            "code": fingerprint.of_code(*code_roots(stage, texts)),
            "needs": upstream,
        }
    )


def gin_texts(stage: Stage) -> list[str]:
    """The texts of the gin files that a stage's command reads, including the files that they include."""
    return configuration.texts(stage.gin_files or (training_runs.GIN_FILES if stage.command[0] == "train" else ()))


def code_roots(stage: Stage, texts: Sequence[str]) -> set[str]:
    """Root modules of a stage's code: modules of its command, imports of its gin files, and --module_import options."""
    commands = pathlib.Path(__file__).resolve().parent.parent / "commands"
    every_command = tuple(f"castor.launch.commands.{path.stem}" for path in commands.glob("*.py"))
    roots = {_COMMAND, *_CODE.get(stage.command[0], every_command)}
    options = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    options.add_argument("--module_import", action="append", default=[])
    roots.update(options.parse_known_args(stage.command[1:])[0].module_import)
    return roots.union(*map(configuration.imported_modules, texts))


def command_line(stage: Stage) -> list[str]:
    """The arguments after `castor` that run `stage`."""
    gin_files = [f"--gin_file={name}" for name in stage.gin_files]
    bindings = [f"--gin.{key}={value!r}" for key, value in stage.bindings.items()]
    return [*stage.command, *gin_files, *bindings]


def _run_stage(
    stage: Stage, stages, folder: pathlib.Path, check: threading.Lock, listen, children: set, held: lock.Held
) -> Outcome:
    started = time.monotonic()
    listen(stage.name, "checking")
    stamp = folder / f"{stage.name}.json"
    with check:
        if is_up_to_date(stage, stages, folder):
            return Outcome(stage, "up to date", time.monotonic() - started)
        promise = None if stage.command[0] == "data" else stage_fingerprint(stage, stages, folder)
    if stage.command[0] == "train":
        _archive_model(stage, folder, promise)
    held.check()
    log = folder / f"{stage.name}.log"
    listen(stage.name, "running")
    with open(log, "wb") as file:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "castor.launch.command", *command_line(stage)],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=_environment() | held.environment(),
        )
        children.add(child)
        exit_code = child.wait()
        children.discard(child)
    if exit_code == 0 and promise is not None:
        _write(stamp, {"fingerprint": promise})
    state = "done" if exit_code == 0 else "failed"
    return Outcome(stage, state, time.monotonic() - started, exit_code, log)


def _archive_model(stage: Stage, folder: pathlib.Path, promise: str) -> None:
    """Renames a model that was begun from other data or configuration. Such a model is never resumed or deleted."""
    begun = folder / f"{stage.name}.begun.json"
    model = pathlib.Path(stage.output)
    if begun.is_file() and model.exists():
        before = json.loads(begun.read_text())["fingerprint"]
        if before != promise:
            archive = model.with_name(f"{model.name}.{before[:8]}")
            number = 1
            while archive.exists():
                number += 1
                archive = model.with_name(f"{model.name}.{before[:8]}-{number}")
            with lock.hold(model, "MODEL_DIR") as held:
                model.rename(archive)
                held.follow(str(archive))
    _write(begun, {"fingerprint": promise})


def _job_is_up_to_date(stage: Stage) -> bool:
    from castor.pipelines.execution.launcher import up_to_date

    return up_to_date(job_of(stage))


def job_of(stage: Stage):
    """The job that a data stage runs. Raises CastorError if gin, the job or the configuration is invalid."""
    job = stage.command[1]
    bindings = tuple(f"{key} = {value!r}" for key, value in stage.bindings.items())
    configuration.parse(configuration.Flags(stage.gin_files or (f"pipelines/{job}.gin",), bindings))
    return data_jobs.make(job)


def _stamp(folder: pathlib.Path, stage: Stage) -> str | None:
    try:
        return json.loads((folder / f"{stage.name}.json").read_text())["fingerprint"]
    except (OSError, ValueError, KeyError):
        return None


def _write(path: pathlib.Path, value) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(value) + "\n")
    partial.replace(path)


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONUNBUFFERED": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}


def _stop(child: subprocess.Popen) -> None:
    child.send_signal(signal.SIGINT)
    try:
        child.wait(timeout=20)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _fill_stage(stage: Stage, variables: Mapping[str, Any]) -> Stage:
    return dataclasses.replace(
        stage,
        command=tuple(_fill(part, variables) for part in stage.command),
        output=_fill(stage.output, variables),
        gin_files=tuple(stage.gin_files),
        bindings=_fill(dict(stage.bindings), variables),
        needs=tuple(stage.needs),
    )


def _fill(value, variables: Mapping[str, Any]):
    if isinstance(value, str):
        whole = value[1:-1]
        if value.startswith("{") and value.endswith("}") and whole in variables:
            return variables[whole]  # a string that is one variable and nothing else keeps the type of the value
        for name, filled in variables.items():
            value = value.replace("{" + name + "}", str(filled))
        return value
    if isinstance(value, Mapping):
        return {key: _fill(item, variables) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_fill(item, variables) for item in value)
    return value
