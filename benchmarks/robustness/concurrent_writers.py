"""Pairs of concurrent writers of one folder: is anything ever lost, and is every refused writer told who writes?

    python benchmarks/robustness/concurrent_writers.py            # 100 pairs: web, vocabulary, tokenize, train, run
    python benchmarks/robustness/concurrent_writers.py --pairs 4 --kinds web,run

A pair is two processes that run the same `castor` command on the same folder. They are started at random times, paused
at random (SIGSTOP, SIGCONT) and killed at random (SIGKILL). If one was killed, the command is then started once more,
as a scheduler would. Everything follows from --seed except the timing of the machine. Every pair must show that

- each process wrote everything (exit code 0), was killed by this benchmark, or was refused with exit code 2 and one
  line that names the other process;
- a killed process did not keep the next one out: its lock was taken over;
- the folder holds at the end what one writer alone makes, byte for byte, and no lock file, staging folder or unfinished
  checkpoint.

Writers are forked from a process that has imported everything, so that a pair takes seconds. The training runs share
one compilation cache. Prints one JSON line per kind of writer and one for all, and one per pair to standard error. Exit
code 1 if a check failed.

The counts: done, told and killed are writers by how they ended; both_done are pairs whose second writer started after
the first had ended; paused are SIGSTOPs; restarts are commands started again after a kill; taken_over are those that
found a dead owner's lock and wrote everything.
"""

import argparse
import hashlib
import heapq
import json
import os
import pathlib
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

KINDS = ("web", "vocabulary", "tokenize", "train", "run")
_TOLD = re.compile(r"castor: error: .* is being written by process (\d+) on \S+ since [-0-9: ]+ UTC \(.*\)")
_STEPS, _PERIOD = 6, 3


# Writers.


def serve(kind: str) -> None:
    """The process that writers are forked from.

    Reads one {"argv", "log"} per line and answers {"pid"}; answers {"pid", "code"} when a writer has ended.
    """
    from castor.launch import command

    if kind == "train":
        import orbax.checkpoint  # noqa: F401
        import sentencepiece  # noqa: F401
        import tensorboardX  # noqa: F401

        from castor.launch.commands import train
        from castor.train import loop  # noqa: F401

        assert train
    elif kind == "run":
        from castor.launch.commands import run  # noqa: F401
        from castor.launch.recipes import recipes  # noqa: F401
    else:
        import apache_beam  # noqa: F401

        from castor.launch.commands import data  # noqa: F401
        from castor.pipelines import tokenize, vocabulary, web  # noqa: F401
        from castor.pipelines.execution import launcher  # noqa: F401
    print("{}", flush=True)
    while True:
        readable, _, _ = select.select([sys.stdin], [], [], 0.02)
        if readable:
            line = sys.stdin.readline()
            if not line:
                return
            request = json.loads(line)
            pid = os.fork()
            if not pid:
                _write(command, **request)
            print(json.dumps({"pid": pid}), flush=True)
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            continue
        if pid:
            print(json.dumps({"pid": pid, "code": os.waitstatus_to_exitcode(status)}), flush=True)


def _write(command, argv: list[str], log: str) -> None:
    """Runs one writer in a forked process and exits."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = ["castor", *argv]
    code = 70
    try:
        code = command.main(argv)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 70
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class Writers:
    """Starts writers of one kind and records how they ended."""

    def __init__(self, kind: str, environment: dict[str, str]):
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve", kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | environment,
        )
        self._rest = b""
        self.ended: dict[int, tuple[int, float]] = {}
        while not list(self._answers(60.0)):
            pass

    def start(self, argv: list[str], log: pathlib.Path) -> int:
        """The process id of a new writer."""
        self._process.stdin.write(json.dumps({"argv": argv, "log": str(log)}).encode() + b"\n")
        self._process.stdin.flush()
        while True:
            for answer in self._answers(10.0):
                if "code" not in answer:
                    return answer["pid"]

    def look(self, seconds: float) -> None:
        """Waits up to `seconds` for writers to end."""
        for _ in self._answers(max(seconds, 0.0)):
            pass

    def wait(self, pid: int) -> int:
        """Waits for a writer to end and returns its exit code."""
        while pid not in self.ended:
            self.look(1.0)
        return self.ended[pid][0]

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()

    def _answers(self, seconds: float) -> Iterator[dict]:
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            return
        read = os.read(self._process.stdout.fileno(), 1 << 16)
        if not read:
            raise RuntimeError("the process that forks writers has ended")
        *lines, self._rest = (self._rest + read).split(b"\n")
        answers = [json.loads(line) for line in lines]
        for answer in answers:
            if "code" in answer:
                self.ended[answer["pid"]] = answer["code"], time.monotonic()
        yield from answers


# What they write.


def command_of(kind: str, work: pathlib.Path, output: pathlib.Path) -> list[str]:
    """The arguments after `castor` of a writer of `output`."""
    made = work / "made"
    gin = {
        "web": {"INPUT_ROOT": str(work / "raw" / "web"), "INPUTS": ["*.warc.gz"], "NUM_SHARDS": 2},
        "vocabulary": {"CORPORA": [str(made / "web")], "VOCAB_SIZE": 600, "SAMPLE_DOCUMENTS": 40},
        "tokenize": {"CORPUS": str(made / "web"), "VOCABULARY": str(made / "vocabulary"), "NUM_SHARDS": 2},
    }
    if kind in gin:
        return ["data", kind, *_bindings({**gin[kind], "OUTPUT": str(output)})]
    if kind == "run":
        return ["run", str(work / "recipe.gin"), *_bindings({"OUTPUT": str(output)})]
    run = {
        "MIXTURE_OR_TASK_NAME": str(made / "tokenize"),
        "MODEL_DIR": str(output),
        "TASK_FEATURE_LENGTHS": {"targets": 64},
        "BATCH_SIZE": 4,
        "TRAIN_STEPS": _STEPS,
        "CHECKPOINT_PERIOD": _PERIOD,
        "EVAL_PERIOD": 0,
        "Transformer.embed": 32,
        "Transformer.layers": 2,
        "Transformer.head_dim": 8,
        "Transformer.mlp": 64,
    }
    return ["train", "--gin_file=models/tiny.gin", "--gin_file=runs/pretrain.gin", *_bindings(run)]


def _bindings(values: dict) -> list[str]:
    return [f"--gin.{name}={value!r}" for name, value in values.items()]


def prepare(work: pathlib.Path) -> None:
    """The raw files, and a recipe of two stages that make demo corpora."""
    from castor.launch.recipes.demo_corpus import DemoCorpus

    small = {f"launch.demo_corpus.DemoCorpus.{name}": 1 for name in ("images", "sounds", "clips", "pages")}
    DemoCorpus(images=1, sounds=1, clips=1, pages=6).make(str(work / "raw"))
    stages = []
    for name, needs in (("a", ()), ("b", ("a",))):
        stages.append(
            f"{name}/Stage.name = {name!r}\n"
            f"{name}/Stage.command = ('demo', '--corpus_only', '--output={{OUTPUT}}/{name}')\n"
            f"{name}/Stage.output = '{{OUTPUT}}/{name}'\n"
            f"{name}/Stage.bindings = {small!r}\n{name}/Stage.needs = {needs!r}\n"
        )
    (work / "recipe.gin").write_text(
        "import castor.launch.recipes.recipes\n" + "".join(stages) + "launch.recipes.Recipe.title = 'two stages'\n"
        "launch.recipes.Recipe.stages = (@a/Stage(), @b/Stage())\n"
        "launch.recipes.Recipe.variables = {'OUTPUT': %OUTPUT}\n"
    )


def content(kind: str, output: pathlib.Path) -> dict[str, str]:
    """SHA-256 by path of every file that must not depend on how many writers there were.

    Files that may never stay are listed as "left over", a run's checkpoints as "a checkpoint".
    """
    found = {}
    for path in sorted(output.rglob("*")):
        name = path.relative_to(output).as_posix()
        if re.search(r"(^|/)\.(lock|staging|[a-z]+-)|orbax-checkpoint-tmp", name):
            found[name] = "left over"
        elif path.is_file() and _is_compared(kind, name):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif kind == "train" and re.fullmatch(r"checkpoint_\d+", name):
            found[name] = "a checkpoint"
    return found


def _is_compared(kind: str, name: str) -> bool:
    if (
        kind == "train"
    ):  # COMPLETED holds the checksum of the parameters; times and configurations differ between starts
        return name in ("metrics.jsonl", "COMPLETED", "model.json")
    if kind == "run":
        return name.startswith(("a/", "b/"))  # the stamps and the report name the folder
    return True


# A pair.


def pair(
    kind: str, writers: Writers, work: pathlib.Path, alone: dict[str, str], seconds: float, seed: str
) -> dict[str, int]:
    """Runs two writers on one folder. Returns counts of what happened; `failed` is 1 if a check failed."""
    chance = random.Random(seed)
    output = pathlib.Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=work)) / "out"
    argv, logs = command_of(kind, work, output), [output.parent / f"{i}.log" for i in range(3)]
    plan = _plan(chance, seconds)
    counts = dict.fromkeys(("done", "both_done", "told", "killed", "paused", "restarts", "taken_over"), 0)
    pids: dict[int, int] = {}
    began = time.monotonic()
    while plan:
        when, who, what = heapq.heappop(plan)
        writers.look(began + when - time.monotonic())
        while time.monotonic() < began + when:
            writers.look(began + when - time.monotonic())
        if what == "start":
            pids[who] = writers.start(argv, logs[who])
        elif pids[who] not in writers.ended:
            os.kill(pids[who], getattr(signal, what))
            counts["paused"] += what == "SIGSTOP"
    codes = {who: writers.wait(pid) for who, pid in pids.items()}
    counts["both_done"] = int(set(codes.values()) == {0})
    failures = []
    for who, code in codes.items():
        counts["done"] += code == 0
        counts["killed"] += code == -signal.SIGKILL
        counts["told"] += code == 2
        if code not in (0, 2, -signal.SIGKILL) or code == 2 and not _names(logs[who], kind, pids[1 - who]):
            failures.append(f"writer {who} ended with code {code}: {logs[who].read_text(errors='replace')[-600:]}")
    if counts["killed"]:
        left = (output / ".lock").exists()
        for _ in range(60):
            again = writers.wait(writers.start(argv, logs[2]))
            counts["restarts"] += 1
            if again != 2 or kind != "run" or not _TOLD.search(logs[2].read_text(errors="replace")):
                break
            time.sleep(0.5)  # a stage of a recipe that was killed is still at work, and is named
        counts["taken_over"] += left and again == 0
        if again:
            failures.append(f"started again, it ended with code {again}: {logs[2].read_text(errors='replace')[-600:]}")
    elif not counts["done"]:
        failures.append("nobody was killed, and nobody has written")
    found = content(kind, output)
    different = sorted(name for name in {*found, *alone} if found.get(name) != alone.get(name))
    if different:
        failures.append(f"not what one writer alone makes: {different[:5]} in {output}")
    else:
        shutil.rmtree(output.parent)
    for failure in failures:
        print(f"{seed}: {failure}", file=sys.stderr, flush=True)
    return {**counts, "failed": int(bool(failures))}


def _plan(chance: random.Random, seconds: float) -> list[tuple[float, int, str]]:
    """A heap of (seconds from the beginning, writer, "start" or a signal) for writers that take `seconds` alone."""
    starts = (0.0, chance.uniform(0.0, 0.9 * seconds))
    plan = []
    for who, start in enumerate(starts):
        plan.append((start, who, "start"))
        at = start
        for _ in range(chance.choice((0, 0, 1, 1, 2))):
            at += chance.uniform(0.01, 0.7 * seconds)
            plan.append((at, who, "SIGSTOP"))
            at += chance.uniform(0.05, 0.6 * seconds)
            plan.append((at, who, "SIGCONT"))
        if chance.random() < (0.35, 0.2)[who]:
            plan.append((start + chance.uniform(0.01, 1.2 * seconds), who, "SIGKILL"))
    heapq.heapify(plan)
    return plan


def _names(log: pathlib.Path, kind: str, other: int) -> bool:
    """Whether a refused writer's only error line names the other; of a recipe, it may name the other's stage."""
    told = _TOLD.findall(log.read_text(errors="replace"))
    return len(told) == 1 and (told[0] == str(other) or kind == "run")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100, help="pairs of writers, shared evenly among the kinds (100)")
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"kinds of writers ({','.join(KINDS)})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", default="", help="folder for everything (a temporary one, removed at the end)")
    parser.add_argument("--serve", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return 0
    kinds = arguments.kinds.split(",")
    with tempfile.TemporaryDirectory(prefix="castor-writers-") as temporary:
        work = pathlib.Path(arguments.work or temporary).resolve()
        work.mkdir(parents=True, exist_ok=True)
        prepare(work)
        programs = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(work / "programs"))
        environment = {
            "JAX_COMPILATION_CACHE_DIR": programs,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PLATFORMS": "cpu",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        sums: dict[str, int] = {}
        began = time.monotonic()
        needed = {"train": ("web", "vocabulary", "tokenize"), "tokenize": ("web", "vocabulary"), "vocabulary": ("web",)}
        wanted = {*kinds, *(need for kind in kinds for need in needed.get(kind, ()))}
        for kind in (kind for kind in KINDS if kind in wanted):
            started = time.monotonic()
            writers = Writers(kind, environment)
            alone = work / "made" / kind
            seconds = 0.0
            for _ in range(2 if kind == "train" else 1):  # the second time everything is compiled
                shutil.rmtree(alone, ignore_errors=True)
                once = time.monotonic()
                log = work / f"{kind}.log"
                if writers.wait(writers.start(command_of(kind, work, alone), log)):
                    print(log.read_text(errors="replace"), file=sys.stderr)
                    return 1
                seconds = time.monotonic() - once
            expected = content(kind, alone)
            total: dict[str, int] = {}
            own = range(kinds.index(kind), arguments.pairs, len(kinds)) if kind in kinds else ()
            for number in own:
                seed = f"{arguments.seed}-{kind}-{number}"
                counts = pair(kind, writers, work, expected, seconds, seed)
                print(json.dumps({"pair": seed, **counts}), file=sys.stderr, flush=True)
                for name, count in counts.items():
                    total[name] = total.get(name, 0) + count
                    sums[name] = sums.get(name, 0) + count
            writers.close()
            if kind in kinds:
                told = {"kind": kind, "pairs": len(own), "seconds_alone": round(seconds, 2), **total}
                print(json.dumps({**told, "seconds": round(time.monotonic() - started, 1)}), flush=True)
        whole = {"kind": "all", "pairs": arguments.pairs, **sums, "seconds": round(time.monotonic() - began, 1)}
        print(json.dumps(whole), flush=True)
    return int(sums.get("failed", 0) > 0)


if __name__ == "__main__":
    sys.exit(main())
