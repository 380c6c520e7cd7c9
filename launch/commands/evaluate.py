"""`castor evaluate`: evaluates a checkpoint by held-out loss per domain, SeqIO metrics, and multiple choice.

The loss uses the configuration kept in MODEL_DIR. --tasks with --metrics, and --questions, need only the checkpoint.
"""

import argparse
import json
import sys
from typing import Any

from castor.launch import devices, terminal, training_runs
from castor.tasks.configuration import Flags
from castor.tasks.errors import ConfigurationError
from castor.tasks.storage import storage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model_dir",
        metavar="DIR",
        help="MODEL_DIR of a castor train run; without --gin_file, its latest configuration is used",
    )
    parser.add_argument("--step", type=int, metavar="N", help="checkpoint (default: the latest)")
    parser.add_argument(
        "--output", metavar="FILE", help="write the results: loss as JSON; metrics and questions as .jsonl"
    )
    group = parser.add_argument_group("tasks")
    group.add_argument(
        "--tasks",
        metavar="NAME,...",
        help="task caches to evaluate instead of the run's mixture; with --metrics, SeqIO tasks or mixtures",
    )
    group.add_argument(
        "--metrics", action="store_true", help="run the metric functions of --tasks on generated answers and scores"
    )
    group.add_argument(
        "--module_import",
        action="append",
        default=[],
        metavar="MODULE",
        help="module to import first, which registers the SeqIO tasks",
    )
    group.add_argument("--split", metavar="NAME", help="split of --tasks (default: validation)")
    group.add_argument("--examples", type=int, metavar="N", help="at most N examples per task or file (default: all)")
    group.add_argument(
        "--max_tokens", type=int, metavar="N", help="longest generated answer (default: that of the longest target)"
    )
    group.add_argument("--use_cached", action="store_true", help="read SeqIO tasks from their caches")
    group.add_argument(
        "--log_dir", metavar="DIR", help="folder in which SeqIO's JSON logger writes targets and predictions"
    )
    group.add_argument(
        "--questions",
        action="append",
        default=[],
        metavar="FILE",
        help="multiple-choice questions to score: .jsonl, or a BIG-Bench Hard .json",
    )
    group.add_argument(
        "--shots", type=int, default=0, metavar="K", help="solved examples before each question (default %(default)s)"
    )
    group.add_argument("--vocabulary", metavar="DIR", help="vocabulary folder (default: the one recorded in MODEL_DIR)")
    group.add_argument("--batch_size", type=int, default=32, help="rows decoded together (default %(default)s)")
    devices.add_arguments(parser)


def run(arguments: argparse.Namespace, flags: Flags) -> int:
    _check(arguments)
    devices.start_jax(arguments)
    if arguments.metrics or arguments.questions:
        return _answers(arguments, flags)
    return _loss(arguments, flags)


def _loss(arguments: argparse.Namespace, flags: Flags) -> int:
    from castor.train.evaluation.evaluator import evaluate_checkpoint

    if arguments.model_dir is not None:
        flags = training_runs.of_model_dir(arguments.model_dir, flags)
    elif not flags.files:
        raise ConfigurationError("castor evaluate needs --model_dir.", "Give the MODEL_DIR of a castor train run.")
    if arguments.tasks:
        components = dict.fromkeys(arguments.tasks.split(","), 1)
        flags = training_runs.with_bindings(
            flags, "MIXTURE_OR_TASK_NAME = 'tasks_named'", f"tasks_named/tasks.Mixture.components = {components!r}"
        )
    if arguments.split:
        flags = training_runs.with_bindings(flags, f"train.loop.Evaluation.split = {arguments.split!r}")
    config = training_runs.configure(flags)
    step, results = evaluate_checkpoint(config, arguments.step)
    losses = {name: value for name, value in results.items() if name.startswith("loss")}
    if not losses:
        raise ConfigurationError(
            f"no domain has records in the split {config.evaluation.split!r}.",
            "Give the split a share when tokenizing: --gin.SPLITS.",
        )
    bits = {
        name.removeprefix("bits_per_byte/"): value
        for name, value in results.items()
        if name.startswith("bits_per_byte/")
    }
    width = max(map(len, results))
    print(f"checkpoint {step}, split {config.evaluation.split}, nats per token" + (" (bits per byte)" if bits else ""))
    for name, value in losses.items():
        byte = bits.get(name.removeprefix("loss/"))
        print(f"  {name:<{width}}  {value:.4f}" + (f"  ({byte:.4f})" if byte is not None else ""))
    for name, value in results.items():
        if name not in losses and not name.startswith("bits_per_byte/"):
            print(f"  {name:<{width}}  {value:.4f}")
    if arguments.output:
        storage.write_json_atomic(arguments.output, {"step": step, "split": config.evaluation.split, **results})
    return 0


def _answers(arguments: argparse.Namespace, flags: Flags) -> int:
    """Evaluates generated answers: SeqIO metrics of --tasks and the multiple choice of --questions."""
    if flags != Flags():
        raise ConfigurationError(
            "--metrics and --questions take no gin flags.", "The model's shape is read from MODEL_DIR."
        )
    from castor.train.evaluation import multiple_choice
    from castor.train.inference.inference import Model

    # Both are built first, so that a bad task or file is reported before the model is loaded.
    metrics = _task_metrics(arguments) if arguments.metrics else None
    files = [
        (multiple_choice.name(path), multiple_choice.read(path)[: arguments.examples]) for path in arguments.questions
    ]
    model = Model.load(arguments.model_dir, arguments.step, arguments.vocabulary, batch_size=arguments.batch_size)
    results: list[tuple[dict[str, Any], dict[str, Any]]] = []  # (what was evaluated, its metrics)
    if metrics:
        split = arguments.split or "validation"
        results += [({"task": task, "split": split}, values) for task, values in metrics(model).items()]
        if metrics.prompts_cut:
            print(
                f"castor: {metrics.prompts_cut} prompts were longer than the model's input "
                "and were truncated from the left.",
                file=sys.stderr,
            )
    results += [
        ({"task": task}, _multiple_choice(model, task, questions, arguments.shots)) for task, questions in files
    ]
    table = terminal.table("task", "metric", ">value")
    for evaluated, values in results:
        for name, value in values.items():
            table.add_row(evaluated["task"], name, f"{value:.4f}" if isinstance(value, float) else str(value))
    terminal.console().print(table)
    if arguments.output:
        rows = [{"step": model.step, **evaluated, **values} for evaluated, values in results]
        storage.write_bytes_atomic(
            arguments.output, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows).encode()
        )
    return 0


def _task_metrics(arguments: argparse.Namespace):
    """The TaskMetrics of --tasks, after importing the modules that register the tasks."""
    from castor.train.evaluation import metric_tasks

    for module in arguments.module_import:
        metric_tasks.import_module(module)
    return metric_tasks.TaskMetrics(
        arguments.tasks.split(","),
        arguments.split or "validation",
        arguments.examples,
        arguments.max_tokens,
        log_dir=arguments.log_dir,
        use_cached=arguments.use_cached,
    )


def _multiple_choice(model, task: str, questions, shots: int) -> dict[str, Any]:
    """Scores the questions of one file. Returns the metrics by name."""
    from castor.train.evaluation import multiple_choice

    progress = terminal.Counter(task, sum(len(question.choices) for question in questions))
    result = multiple_choice.evaluate(model, questions, shots, progress)
    names = ("questions", "shots", "chance", "accuracy", "accuracy_by_token", "error")
    return {name: getattr(result, name) for name in names}


def _check(arguments: argparse.Namespace) -> None:
    if arguments.metrics and not arguments.tasks:
        raise ConfigurationError("--metrics needs --tasks.", "Name SeqIO tasks or mixtures: --tasks=NAME,NAME.")
    if (arguments.metrics or arguments.questions) and not arguments.model_dir:
        raise ConfigurationError(
            "--metrics and --questions need --model_dir.", "Give the MODEL_DIR of a castor train run."
        )
    if arguments.questions and arguments.tasks and not arguments.metrics:
        raise ConfigurationError(
            "--questions cannot be combined with the loss of --tasks.", "Run castor evaluate once for each."
        )
    for name in ("examples", "max_tokens", "shots"):
        value = getattr(arguments, name)
        if value is not None and value < (0 if name == "shots" else 1):
            raise ConfigurationError(f"--{name}={value}.", "Give a positive number.")
