"""Throughput, packing and seek time of packed batches on one core: Castor, SeqIO and Grain on the same records.

    python benchmarks/batches/batches.py [CACHE]      # without CACHE, synthetic.py makes a cache of 30 million tokens

castor
    tasks.Batches(...).batch(step) with the default packing, best_fit
castor_first_fit, castor_concat_and_split
    the other two packings of Castor
seqio
    unmodified SeqIO on the same cache: get_dataset(use_cached, shuffle), DecoderFeatureConverter(pack=True)
grain_concat
    Grain: ArrayRecord (group_size:1), shuffle, parse tf.Example (protobuf's upb), ConcatThenSplitIterDataset
grain_first_fit, grain_best_fit
    the same, but long documents are first chopped to rows, then packed into BINS rows at a time
grain_concat_threads
    grain_concat with Grain's default ReadOptions of 16 threads
grain_memory_concat, grain_memory_first_fit
    from arrays in memory: nothing is read or parsed

Every contender runs in its own process, limited to one core including its threads, with files in the page cache. Every
round runs each contender once; medians are over the rounds. Tokens are positions that are not padding. CPU seconds are
those of the whole process. Grain reads inline (num_threads=0) except in grain_concat_threads, because on one core its
threads only add cost. Castor's and SeqIO's batches hold the model's five arrays. Grain's batches hold tokens, segment
ids and positions, which is less work.

start_s: from the start of the process until its libraries are imported.
reach_s: from there to the first batch of step --reach, including everything opened on the way. Castor's cached plans
    are removed first.
reach_far_s: the same for step --far, with the plans that the first run left.
restore_s: reach_s of Grain when its iterator is restored from a checkpoint of that step.
any_step_ms: Castor's batch(step) in an open process, for random steps below a million.
cut: share of documents that fit into a row and are split nevertheless.
lost: share of tokens that never appear, because SeqIO trims a document to a row.

Prints one JSON line per contender and one that compares them.
"""

import argparse
import dataclasses
import glob
import importlib
import importlib.metadata
import itertools
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np
import synthetic

BINS = 64
WARM_UP_BATCHES = 20
CHECKED_BATCHES = 100
HEAD_TOKENS = 64
ANY_STEPS = 100

Stream = Callable[[int], Iterator[dict[str, np.ndarray]]]
"""Returns the batches from a given step on."""


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way to make packed batches.

    open: (arguments) -> Stream.
    modules: modules imported before any clock starts.
    targets, segments: names of the arrays in the batches.
    """

    open: Callable[..., Stream]
    modules: tuple[str, ...]
    targets: str
    segments: str


# ---------------------------------------------------------------- the contenders


def open_castor(arguments, packing: str | None = None) -> Stream:
    from castor import tasks

    more = {"packing": packing} if packing else {}
    batches = tasks.Batches(arguments.cache, batch_size=arguments.batch, lengths={"targets": arguments.length}, **more)
    return lambda step: map(batches.batch, itertools.count(step))


def open_seqio(arguments) -> Stream:
    import seqio

    from castor.tasks.integrations import seqio_tasks

    (name,) = seqio_tasks.register(arguments.cache)
    dataset = seqio.get_dataset(
        name,
        {"targets": arguments.length},
        seqio.DecoderFeatureConverter(pack=True),
        use_cached=True,
        shuffle=True,
        seed=0,
        num_epochs=None,
        batch_size=arguments.batch,
        verbose=False,
    )
    return lambda step: dataset.skip(step).as_numpy_iterator()


def open_grain(arguments, packing: str, memory: bool = False, threads: bool = False) -> Stream:
    import grain

    if memory:
        dataset = grain.MapDataset.source(_arrays(arguments.cache)).seed(0).shuffle().repeat()
    else:
        files = sorted(glob.glob(f"{glob.escape(arguments.arrayrecord)}/*"))
        dataset = (
            grain.MapDataset.source(grain.sources.ArrayRecordDataSource(files))
            .seed(0)
            .shuffle()
            .repeat()
            .map(_parser())
        )
    dataset = dataset.to_iter_dataset(
        grain.ReadOptions() if threads else grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    )
    lengths = {"targets": arguments.length}
    if packing == "concat":
        dataset = grain.experimental.ConcatThenSplitIterDataset(dataset, length_struct=lengths)
    else:
        dataset = grain.experimental.FlatMapIterDataset(dataset, _chop(arguments.length))
        pack = {"first_fit": "FirstFitPackIterDataset", "best_fit": "BestFitPackIterDataset"}[packing]
        dataset = getattr(grain.experimental, pack)(dataset, length_struct=lengths, num_packing_bins=BINS)
    dataset = dataset.batch(arguments.batch)

    def stream(step: int) -> Iterator[dict[str, np.ndarray]]:
        iterator = iter(dataset)
        for _ in range(step):
            next(iterator)
        return iterator

    return stream


def _parser():
    """tf.Example -> int32 tokens. Of np.array, np.fromiter and a slice of the field, the last is the fastest."""
    from castor.tasks.cache import records

    example = records._example_class()  # the class tf.train.Example compiles to, without importing TensorFlow

    def parse(payload: bytes) -> dict[str, np.ndarray]:
        return {
            "targets": np.array(
                example.FromString(payload).features.feature["targets"].int64_list.value[:], dtype=np.int32
            )
        }

    return parse


def _chop(length: int):
    import grain

    class Chop(grain.experimental.FlatMapTransform):
        """Documents longer than a row, in rows."""

        max_fan_out = synthetic.LONGEST

        def flat_map(self, element):
            tokens = element["targets"]
            return [{"targets": tokens[start : start + length]} for start in range(0, len(tokens), length)]

    return Chop()


@dataclasses.dataclass(frozen=True)
class _arrays:
    """A Grain source of arrays in memory."""

    cache: str

    def __post_init__(self):
        from castor import tasks

        reader = tasks.CacheReader(self.cache, "train")
        object.__setattr__(
            self, "arrays", [{"targets": reader.tokens(record).astype(np.int32)} for record in range(len(reader))]
        )

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self.arrays[index]


def _castor(packing: str | None = None) -> Contender:
    return Contender(
        lambda a: open_castor(a, packing), ("castor.tasks",), "decoder_target_tokens", "decoder_segment_ids"
    )


def _grain(packing: str, **options) -> Contender:
    return Contender(
        lambda a: open_grain(a, packing, **options), ("grain", "castor.tasks"), "targets", "targets_segment_ids"
    )


CONTENDERS = {
    "castor": _castor(),
    "castor_first_fit": _castor("first_fit"),
    "castor_concat_and_split": _castor("concat_and_split"),
    "seqio": Contender(
        open_seqio, ("seqio", "castor.tasks.integrations.seqio_tasks"), "decoder_target_tokens", "decoder_segment_ids"
    ),
    "grain_concat": _grain("concat"),
    "grain_first_fit": _grain("first_fit"),
    "grain_best_fit": _grain("best_fit"),
    "grain_concat_threads": _grain("concat", threads=True),
    "grain_memory_concat": _grain("concat", memory=True),
    "grain_memory_first_fit": _grain("first_fit", memory=True),
}


# ---------------------------------------------------------------- one measurement


def measure(arguments) -> dict:
    """Measures one contender in this process."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # before any library counts cores or starts threads
    contender = CONTENDERS[arguments.contender]
    for module in contender.modules:
        importlib.import_module(module)
    result: dict = {"start_s": round(time.time() - arguments.started, 3)}

    if arguments.reach is not None:
        begin = time.perf_counter()
        iterator = contender.open(arguments)(arguments.reach)
        state = iterator.get_state() if hasattr(iterator, "get_state") else None
        next(iterator)
        result["reach_s"] = round(time.perf_counter() - begin, 4)
        if state is not None:
            begin = time.perf_counter()
            iterator = contender.open(arguments)(0)
            iterator.set_state(state)
            next(iterator)
            result["restore_s"] = round(time.perf_counter() - begin, 4)
        del iterator
    if arguments.seconds:
        stream = contender.open(arguments)
        result |= _throughput(stream(0), contender, arguments.seconds)
        if arguments.check:
            result["cut"] = _cut(stream(0), contender, arguments)
        if arguments.contender.startswith("castor"):
            result |= _any_step(stream)
    return result


def _throughput(iterator, contender: Contender, seconds: float) -> dict:
    for _ in range(WARM_UP_BATCHES):
        next(iterator)
    tokens = positions = batches = 0
    wall, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < seconds:
        segment_ids = next(iterator)[contender.segments]
        tokens += int(np.count_nonzero(segment_ids))
        positions += segment_ids.size
        batches += 1
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {
        "tokens_per_cpu_s": round(tokens / cpu),
        "tokens_per_wall_s": round(tokens / wall),
        "fill": round(tokens / positions, 5),
        "batches": batches,
        "peak_rss_mb": peak_rss_mb(),
    }


def peak_rss_mb() -> int:
    """Peak memory of this process alone: unlike ru_maxrss, VmHWM does not start from the parent's usage."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def _any_step(stream: Stream) -> dict:
    steps = np.random.default_rng(0).integers(0, 10**6, ANY_STEPS)
    times = []
    for step in steps.tolist():
        begin = time.perf_counter()
        next(stream(step))
        times.append(1000 * (time.perf_counter() - begin))
    return {"any_step_ms": {"median": round(statistics.median(times), 2), "max": round(max(times), 2)}}


def _cut(iterator, contender: Contender, arguments) -> float:
    """Share of split documents, among the documents that fit into a row and begin in the batches read.

    Documents are identified by their first HEAD_TOKENS tokens. Documents that share these tokens with another, and
    beginnings shorter than HEAD_TOKENS, are ignored.
    """
    from castor import tasks

    reader = tasks.CacheReader(arguments.cache, "train")
    sizes: dict[bytes, int] = {}
    for record in range(len(reader)):
        tokens = reader.tokens(record)
        key = tokens[:HEAD_TOKENS].astype(np.int32).tobytes()
        sizes[key] = -1 if key in sizes else len(tokens)
    seen = cut = 0
    for batch in itertools.islice(iterator, CHECKED_BATCHES):
        for tokens, segment_ids in zip(batch[contender.targets], batch[contender.segments]):
            for segment in range(1, int(segment_ids.max()) + 1):
                segment_tokens = tokens[segment_ids == segment]
                size = sizes.get(segment_tokens[:HEAD_TOKENS].astype(np.int32).tobytes(), -1)
                if 0 < size <= arguments.length:
                    seen += 1
                    cut += len(segment_tokens) < size
    return round(cut / max(seen, 1), 5)


# ---------------------------------------------------------------- the corpus


def prepare_cache(arguments, work: pathlib.Path) -> pathlib.Path:
    """The cache to run on: the given one, or one created and kept in the work folder."""
    if arguments.cache:
        return pathlib.Path(arguments.cache).resolve()
    random = np.random.default_rng(arguments.seed)
    name = f"synthetic_{arguments.tokens}_{arguments.median}_{arguments.sigma}_{arguments.seed}"
    if arguments.lengths_from:
        known = synthetic.real_lengths(arguments.lengths_from)
        sizes = random.choice(known, 1 + int(arguments.tokens / known.mean()))
        name = f"real_lengths_{arguments.tokens}_{len(known)}_{int(known.sum())}_{arguments.seed}"
    else:
        mean = arguments.median * np.exp(arguments.sigma**2 / 2)
        sizes = synthetic.lengths(random, 1 + int(arguments.tokens / mean), arguments.median, arguments.sigma)
    directory = work / name.replace(".", "_")
    if not (directory / "manifest.json").exists():
        synthetic.write_cache(str(directory), sizes, arguments.shards, arguments.seed, directory.name)
    return directory


def prepare_arrayrecord(cache: pathlib.Path, work: pathlib.Path) -> pathlib.Path:
    """The same records in ArrayRecord files of the same shards, with the options Grain recommends for random access."""
    from array_record.python import array_record_module

    from castor import tasks

    reader = tasks.CacheReader(str(cache), "train")
    directory = work / f"arrayrecord_{reader.manifest.content_fingerprint}"
    if not directory.exists():
        staging = pathlib.Path(tempfile.mkdtemp(dir=work))
        writers = [
            array_record_module.ArrayRecordWriter(
                str(staging / f"{shard:05d}-of-{reader.num_shards:05d}"), "group_size:1"
            )
            for shard in range(reader.num_shards)
        ]
        for record in range(len(reader)):
            writers[reader.locate(record)[0]].write(reader.payload(record))
        for writer in writers:
            writer.close()
        staging.rename(directory)
    return directory


def describe(cache: pathlib.Path, length: int) -> dict:
    """Describes the documents of a benchmark."""
    sizes = synthetic.real_lengths([str(cache)])
    return {
        "documents": len(sizes),
        "tokens": int(sizes.sum()),
        "length_mean": round(float(sizes.mean()), 1),
        "length_median": float(np.median(sizes)),
        "length_99_percent": float(np.percentile(sizes, 99)),
        "length_max": int(sizes.max()),
        "longer_than_a_row": round(float((sizes > length).mean()), 4),
        "tokens_beyond_a_row": round(1 - float(np.minimum(sizes, length).sum() / sizes.sum()), 4),
    }


def machine() -> dict:
    """The machine and the versions of the software."""
    versions = {}
    for name in ("numpy", "protobuf", "seqio", "tensorflow", "grain", "array-record"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    model = next(
        (line.partition(":")[2].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version(), "versions": versions}


# ---------------------------------------------------------------- all of them


def run_child(arguments, contender: str, **more) -> dict:
    """One measurement in a fresh process."""
    own = {key: getattr(arguments, key) for key in ("cache", "arrayrecord", "length", "batch")}
    own |= {"contender": contender, "reach": None, "seconds": 0, "check": False, "started": time.time()}
    command = [sys.executable, __file__, "--measure", json.dumps(own | more)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    if done.returncode:
        sys.exit(f"{contender} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def environment() -> dict[str, str]:
    """Environment of the measured processes: without log output, and with bytecode caching as in a user's Python, even
    if the caller's Python does not write bytecode.
    """
    inherited = dict(os.environ)
    if inherited.pop("PYTHONDONTWRITEBYTECODE", None):
        inherited["PYTHONPYCACHEPREFIX"] = os.path.join(tempfile.gettempdir(), "castor-benchmarks-pycache")
    return {**inherited, "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1"}


def forget_plans(cache: str) -> None:
    """Removes the plans stored next to a cache's shards."""
    for directory in pathlib.Path(cache).rglob("plans"):
        shutil.rmtree(directory)


def warm(*directories: str) -> None:
    for directory in directories:
        for path in pathlib.Path(directory).rglob("*"):
            if path.is_file():
                path.read_bytes()


def measure_rounds(arguments) -> dict[str, list[dict]]:
    measured: dict[str, list[dict]] = {name: [] for name in arguments.contenders}
    for number in range(arguments.rounds):
        for name in arguments.contenders:
            if name.startswith("castor"):
                forget_plans(arguments.cache)
            reach = None if "memory" in name else arguments.reach
            result = run_child(arguments, name, reach=reach, seconds=arguments.seconds, check=number == 0)
            if name == "castor":
                result["reach_far_s"] = run_child(arguments, name, reach=arguments.far)["reach_s"]
            measured[name].append(result)
            print(name, result, file=sys.stderr, flush=True)
    return measured


def combine(results: list[dict]) -> dict:
    """Medians over rounds, but the maximum of `max`. Values measured only in the first round are taken from it."""
    combined: dict = {}
    for key, value in results[0].items():
        values = [result[key] for result in results if key in result]
        if isinstance(value, dict):
            combined[key] = {
                "median": statistics.median(v["median"] for v in values),
                "max": max(v["max"] for v in values),
            }
        else:
            combined[key] = statistics.median(values)
    speeds = [result["tokens_per_cpu_s"] for result in results]
    return {**combined, "tokens_per_cpu_s_all": speeds}


def main() -> int:
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(argparse.Namespace(**json.loads(sys.argv[2])))))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", nargs="?", help="a task cache; made if not given")
    parser.add_argument(
        "--work", default=os.path.join(tempfile.gettempdir(), "castor-benchmarks"), help="kept for the next run"
    )
    parser.add_argument("--length", type=int, default=2048, help="tokens of a row")
    parser.add_argument("--batch", type=int, default=8, help="rows of a batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each throughput measurement")
    parser.add_argument("--reach", type=int, default=1000)
    parser.add_argument("--far", type=int, default=10**5, help="a step that only Castor is asked to reach")
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--tokens", type=int, default=30_000_000, help="of the made cache")
    parser.add_argument("--median", type=float, default=synthetic.MEDIAN, help="length of its documents")
    parser.add_argument("--sigma", type=float, default=synthetic.SIGMA)
    parser.add_argument(
        "--lengths-from", nargs="+", metavar="CACHE", help="draw its lengths from these caches' sidecars instead"
    )
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.contenders = arguments.contenders.split(",")
    if unknown := set(arguments.contenders) - set(CONTENDERS):
        parser.error(f"no contender {', '.join(sorted(unknown))}; there are {', '.join(CONTENDERS)}")

    work = pathlib.Path(arguments.work)
    work.mkdir(parents=True, exist_ok=True)
    cache = prepare_cache(arguments, work)
    with_grain = any("grain" in name for name in arguments.contenders)
    arguments.cache, arguments.arrayrecord = str(cache), str(prepare_arrayrecord(cache, work)) if with_grain else ""
    warm(*filter(None, (arguments.cache, arguments.arrayrecord)))
    measured = {name: combine(results) for name, results in measure_rounds(arguments).items()}

    corpus = describe(cache, arguments.length)
    if "seqio" in measured:
        measured["seqio"]["lost"] = corpus["tokens_beyond_a_row"]
    for name, result in measured.items():
        print(json.dumps({"benchmark": "batches", "contender": name, **result}))
    castor = measured.get("castor", {}).get("tokens_per_cpu_s")
    ratios = {
        name: round(castor / result["tokens_per_cpu_s"], 2)
        for name, result in measured.items()
        if castor and name != "castor"
    }
    settings = {key: getattr(arguments, key) for key in ("length", "batch", "rounds", "seconds", "reach", "far")}
    print(
        json.dumps(
            {
                "benchmark": "batches",
                "castor_over": ratios,
                "corpus": corpus,
                "settings": settings,
                "machine": machine(),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
