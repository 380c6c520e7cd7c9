"""`castor evaluate`: what a checkpoint is worth: held-out loss by domain, SeqIO tasks by their metrics, multiple choice by scoring.

Loss is measured with the configuration that the run kept; --tasks --metrics and --questions need nothing but its MODEL_DIR.
"""

import argparse
import json
import sys

from castor.launch import devices, terminal, training_runs
from castor.tasks.configuration import Flags
from castor.tasks.errors import ConfigurationError
from castor.tasks.storage import storage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model_dir",
        metavar="DIR",
        help="MODEL_DIR of a castor train run; its latest configuration is used unless --gin_file says otherwise",
    )
    parser.add_argument("--step", type=int, metavar="N", help="checkpoint (default: the latest)")
    parser.add_argument(
        "--output", metavar="FILE", help="write the results: loss as JSON, metrics and questions as .jsonl, a line each"
    )
    group = parser.add_argument_group("tasks")
    group.add_argument(
        "--tasks",
        metavar="NAME,...",
        help="the loss of these task caches instead of the run's mixture; with --metrics: SeqIO tasks or mixtures",
    )
    group.add_argument(
        "--metrics", action="store_true", help="the metric functions of --tasks, with generated answers and scores"
    )
    group.add_argument(
        "--module_import",
        action="append",
        default=[],
        metavar="MODULE",
        help="import this first: it registers the tasks",
    )
    group.add_argument("--split", metavar="NAME", help="of --tasks (default: validation)")
    group.add_argument("--examples", type=int, metavar="N", help="at most so many of each task or file (default: all)")
    group.add_argument(
        "--max_tokens", type=int, metavar="N", help="of a generated answer (default: as many as the longest target)"
    )
    group.add_argument("--use_cached", action="store_true", help="read SeqIO tasks from their caches")
    group.add_argument("--log_dir", metavar="DIR", help="SeqIO's JSON logger writes targets and predictions there")
    group.add_argument(
        "--questions",
        action="append",
        default=[],
        metavar="FILE",
        help="multiple choice by scoring: .jsonl, or a BIG-Bench Hard .json",
    )
    group.add_argument(
        "--shots", type=int, default=0, metavar="K", help="solved questions shown before each; default %(default)s"
    )
    group.add_argument("--vocabulary", metavar="DIR", help="where the vocabulary is, if not where the model says")
    group.add_argument("--batch_size", type=int, default=32, help="rows decoded together; default %(default)s")
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
            "Tokenize with a share for it: --gin.SPLITS.",
        )
    bits = {
        name.removeprefix("bits_per_byte/"): value
        for name, value in results.items()
        if name.startswith("bits_per_byte/")
    }
    width = max(map(len, results))
    print(f"checkpoint {step}, split {config.evaluation.split}, nats a token" + (" (bits a byte)" if bits else ""))
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
    if flags != Flags():
        raise ConfigurationError(
            "--metrics and --questions take no gin flags.", "The model's shape is read from MODEL_DIR."
        )
    metrics = None
    if arguments.metrics:
        from castor.train.evaluation import metric_tasks

        for module in arguments.module_import:
            metric_tasks.import_module(module)
        metrics = metric_tasks.TaskMetrics(
            arguments.tasks.split(","),
            arguments.split or "validation",
            arguments.examples,
            arguments.max_tokens,
            log_dir=arguments.log_dir,
            use_cached=arguments.use_cached,
        )
    from castor.train.evaluation import multiple_choice
    from castor.train.inference.inference import Model

    files = [
        (multiple_choice.name(path), multiple_choice.read(path)[: arguments.examples]) for path in arguments.questions
    ]
    model = Model.load(arguments.model_dir, arguments.step, arguments.vocabulary, batch_size=arguments.batch_size)
    rows, table = [], terminal.table("task", "metric", ">value")
    if metrics:
        for task, values in metrics(model).items():
            rows.append({"task": task, "step": model.step, "split": arguments.split or "validation", **values})
            for name, value in values.items():
                table.add_row(task, name, f"{value:.4f}" if isinstance(value, float) else value)
        if metrics.prompts_cut:
            print(
                f"castor: {metrics.prompts_cut} prompts were longer than the model reads and lost their beginning.",
                file=sys.stderr,
            )
    for task, asked in files:
        result = multiple_choice.evaluate(
            model, asked, arguments.shots, terminal.Tally(task, sum(len(question.choices) for question in asked))
        )
        values = {"questions": result.questions, "shots": result.shots, "chance": result.chance}
        values |= {"accuracy": result.accuracy, "accuracy_by_token": result.accuracy_by_token, "error": result.error}
        rows.append({"task": task, "step": model.step, **values})
        for name, value in values.items():
            table.add_row(task, name, str(value) if isinstance(value, int) else f"{value:.4f}")
    terminal.console().print(table)
    if arguments.output:
        storage.write_bytes_atomic(
            arguments.output, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows).encode()
        )
    return 0


def _check(arguments: argparse.Namespace) -> None:
    if arguments.metrics and not arguments.tasks:
        raise ConfigurationError("--metrics needs --tasks.", "Name SeqIO tasks or mixtures: --tasks=NAME,NAME.")
    if (arguments.metrics or arguments.questions) and not arguments.model_dir:
        raise ConfigurationError(
            "--metrics and --questions need --model_dir.", "Give the MODEL_DIR of a castor train run."
        )
    if arguments.questions and arguments.tasks and not arguments.metrics:
        raise ConfigurationError(
            "--questions and the loss of --tasks exclude each other.", "Run castor evaluate once for each."
        )
    for name in ("examples", "max_tokens", "shots"):
        value = getattr(arguments, name)
        if value is not None and value < (0 if name == "shots" else 1):
            raise ConfigurationError(f"--{name}={value}.", "Give a positive number.")
