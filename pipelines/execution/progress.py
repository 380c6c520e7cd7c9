"""A running pipeline as the user sees it: progress, errors as one line on every runner, Ctrl-C, the final funnel."""

import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from castor.pipelines.core.funnel import Funnel, table
from castor.tasks import errors
from castor.tasks.errors import CastorError, CorpusError

_RAISED = re.compile(r"tasks\.errors\.(\w+): (.*)")


def wait(start: Callable[[], Any]) -> None:
    """Starts a pipeline and returns when it is done. Ctrl-C cancels the pipeline.

    Raises the error that stopped the pipeline; a CastorError is unwrapped from the runner's exception. Raises
    CorpusError if the pipeline ends in another state than DONE.
    """
    result = None
    try:
        result = start()
        state = result.wait_until_finish()
    except KeyboardInterrupt:
        if result is not None:
            with contextlib.suppress(Exception):
                result.cancel()
        raise
    except Exception as error:
        if _interrupted(error):
            raise KeyboardInterrupt from error
        raise (_castor_error(error) or error) from error
    if state != "DONE":
        raise CorpusError(
            f"the pipeline ended in state {state}, not DONE; nothing was committed.",
            "Look at the runner's log, then run the job again.",
        )


def _interrupted(error: BaseException) -> bool:
    """True if Ctrl-C ended the pipeline. Beam turns the interrupt into an error that only its text identifies."""
    return str(error).startswith("KeyboardInterrupt [while running")


def _castor_error(error: BaseException) -> CastorError | None:
    """The CastorError inside a runner's exception: in the chain of causes, or in another process's traceback."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, CastorError):
            return type(cause)(_without_step(cause.what), cause.remedy)
        cause = cause.__cause__ or cause.__context__
    match = _RAISED.search(str(error))
    if match is None:
        return None
    kind = getattr(errors, match.group(1), CastorError)
    return kind(_without_step(match.group(2)))


def _without_step(text: str) -> str:
    return re.sub(r" \[while running '.*", "", text)


class _Noise(logging.Filter):
    """Drops log records that the command reports itself (tracebacks of CastorErrors), and a notice of Beam's."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], CastorError):
            return False
        text = record.getMessage()
        return _RAISED.search(text) is None and "No semi_persistent_directory found" not in text


@contextlib.contextmanager
def without_noise() -> Iterator[None]:
    """While active, keeps records that the command reports itself out of the log."""
    names = ("common", "worker.sdk_worker", "portability.local_job_service")
    # Messages of a remote runner arrive through the root logger.
    loggers = [logging.getLogger(), *(logging.getLogger(f"apache_beam.runners.{name}") for name in names)]
    noise = _Noise()
    for logger in loggers:
        logger.addFilter(noise)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(noise)


@contextlib.contextmanager
def shown(name: str, quiet: bool) -> Iterator[None]:
    """While active, shows elapsed time, and counts if the runner works in this process.

    On a terminal this is a live line, otherwise one line per minute.
    """
    if quiet:
        yield
        return
    from rich.console import Console

    from castor.pipelines.core.stages import progress

    console, done, started = Console(stderr=True), threading.Event(), time.monotonic()
    progress.clear()

    def line() -> str:
        counts = f", {progress['read']:,} records read" if progress["read"] else ""
        return f"{name}: {time.monotonic() - started:.0f} s{counts}"

    def watch(status) -> None:
        period = 0.5 if status is not None else 60.0
        while not done.wait(period):
            status.update(line()) if status is not None else console.print(line())

    with console.status(line()) if console.is_terminal else contextlib.nullcontext() as status:
        thread = threading.Thread(target=watch, args=(status,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def report(name: str, funnel: Mapping[str, Any], lines: Sequence[str], seconds: float) -> None:
    """Prints the funnel of a finished job and `lines` under it."""
    from rich.console import Console

    console = Console()
    console.print(table(Funnel.from_json(funnel), f"{name}: {seconds:.1f} s"))
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
