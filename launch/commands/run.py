"""`castor run RECIPE`: runs a recipe with progress per stage, then prints its table and writes its report."""

import argparse
import pathlib
import time

from castor.tasks import configuration
from castor.tasks.errors import CastorError, ConfigurationError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="a gin file that binds launch.recipes.Recipe, e.g. gin/recipes/real.gin")
    add_run_arguments(parser)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments shared with `castor demo`."""
    parser.add_argument(
        "--only",
        default="",
        metavar="STAGE[,STAGE]",
        help="run only these stages, whose inputs must already exist",
    )
    parser.add_argument("--jobs", type=int, default=2, help="stages to run in parallel (default 2)")
    parser.add_argument(
        "--dry_run", action="store_true", help="print each stage's command and whether it is up to date; run nothing"
    )


def run(arguments: argparse.Namespace, flags: configuration.Flags) -> int:
    return run_recipe(
        arguments, configuration.Flags((arguments.recipe, *flags.files), flags.bindings, flags.search_paths)
    )


def run_recipe(arguments: argparse.Namespace, flags: configuration.Flags) -> int:
    """Parses and runs a recipe, prints its table and writes report.html. Returns the exit code.

    arguments: parsed arguments of `add_run_arguments`.
    flags: gin flags; their first file is the recipe.
    """
    from castor.launch.recipes import recipes

    configuration.parse(flags)
    recipe = recipes.Recipe()
    only = tuple(name for name in arguments.only.split(",") if name)
    if arguments.jobs < 1:
        raise ConfigurationError(f"--jobs={arguments.jobs}.", "Give at least 1.")
    if arguments.dry_run:
        return _dry_run(recipe, only)
    from castor.tasks.storage import lock

    with lock.hold(recipe.output, "OUTPUT") as held:
        outcomes = _run_with_progress(recipe, only, arguments.jobs, held)
        failed = next((o for o in outcomes if o.state == "failed"), None)
        if failed is not None:
            return _explain(failed)
        if not only:
            from castor.launch.reports import report

            held.check()
            path = report.write(recipe)
            report.print_table(recipe)
            print(f"report: {path}")
    return 0


def _dry_run(recipe, only: tuple[str, ...]) -> int:
    import shlex

    from castor.launch.recipes import recipes

    stages = {stage.name: stage for stage in recipe.resolved()}
    for stage in stages.values():
        if not only or stage.name in only:
            state = "up to date" if recipes.is_up_to_date(stage, stages, recipe.output / "stages") else "to run"
            print(f"# {stage.name}: {state}\ncastor {shlex.join(recipes.command_line(stage))}")
    return 0


def _run_with_progress(recipe, only: tuple[str, ...], jobs: int, held):
    import rich.console
    import rich.progress

    from castor.launch.recipes import recipes

    console = rich.console.Console()
    console.print(f"[bold]{recipe.title}[/bold] into {recipe.output}", highlight=False)
    if recipe.about:
        console.print(recipe.about, highlight=False, markup=False)
    chosen = {stage.name: stage for stage in recipe.stages if not only or stage.name in only}
    columns = (
        rich.progress.SpinnerColumn(finished_text="[green]•"),
        rich.progress.TextColumn("{task.fields[stage]:<18}"),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("{task.fields[state]}", markup=False),
    )
    rows: dict[str, int] = {}
    started: dict[str, float] = {}
    ended: list[str] = []
    with rich.progress.Progress(
        *columns, console=console, refresh_per_second=2, disable=not console.is_terminal
    ) as progress:

        def listen(name: str, state: str) -> None:
            about = chosen[name].about
            if name not in rows:
                started[name] = time.monotonic()
                rows[name] = progress.add_task("", stage=name, state=state, total=1)
            if state in ("done", "up to date", "failed"):
                ended.append(name)
                seconds = round(time.monotonic() - started[name])
                progress.update(rows[name], state=f"{state}: {about}" if about else state, completed=1)
                if not console.is_terminal:
                    line = f"{len(ended):>2} of {len(chosen)}  {name:<15} {state}, {seconds // 60}:{seconds % 60:02}"
                    console.print(line, highlight=False, soft_wrap=True)
            elif state == "running":
                progress.update(rows[name], state=about or state)
                if not console.is_terminal:
                    console.print(f"          {name:<15} {about or state}", highlight=False, soft_wrap=True)

        with _LastLines(recipe.output / "stages", rows, progress):
            return recipes.run(recipe, only, jobs, listen, held)


class _LastLines:
    """Shows the last line of each running stage's log next to its name, updated twice per second."""

    def __init__(self, folder: pathlib.Path, rows, progress):
        import threading

        self._folder, self._rows, self._progress = folder, rows, progress
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        self._thread.start()

    def __exit__(self, *exception):
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            for name, row in list(self._rows.items()):
                task = self._progress.tasks[row]
                if not task.finished and task.fields["state"] != "checking":
                    line = last_line(self._folder / f"{name}.log")
                    if line:
                        self._progress.update(row, state=line[:100])


def last_line(path: pathlib.Path) -> str:
    """The last non-empty line of a log, without terminal escapes; an empty string if there is none."""
    import re

    try:
        with open(path, "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 4096))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _explain(outcome) -> int:
    """Reports a failed stage: raises CastorError with its error line, or prints the end of its log and returns 1."""
    lines = outcome.log.read_text(errors="replace").splitlines() if outcome.log else []
    error = next((line for line in reversed(lines) if line.startswith("castor: error:")), None)
    if error:
        raise CastorError(
            f"stage {outcome.stage.name}: {error.removeprefix('castor: error: ')}", f"(log: {outcome.log})"
        )
    print("\n".join(lines[-25:]))
    print(
        f"castor: stage {outcome.stage.name} failed with exit code {outcome.exit_code}; log: {outcome.log}; "
        "run the same command again to continue."
    )
    return 1
