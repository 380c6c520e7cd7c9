"""A pipeline while it runs, as its user sees it: progress, an error as one line whatever the runner wrapped it in, Ctrl-C, the funnel at the end."""

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
    """Starts a pipeline and returns when it is done. Raises what stopped it, as the CastorError it began as if it was one, or CorpusError for a
    pipeline that ended in any other state; an interrupt cancels it.
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
    """True if Ctrl-C is what ended the pipeline: Beam makes an error of it, in whose text alone it can be told."""
    return str(error).startswith("KeyboardInterrupt [while running")


def _castor_error(error: BaseException) -> CastorError | None:
    """The CastorError inside what a runner raised: in the chain of causes, or, after another process, in the text of the trace."""
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
    """Drops what the command says better: the traces of errors meant for the user, and Beam's notice about schema registries."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], CastorError):
            return False
        text = record.getMessage()
        return _RAISED.search(text) is None and "No semi_persistent_directory found" not in text


@contextlib.contextmanager
def without_noise() -> Iterator[None]:
    """Keeps from the log what the command says better."""
    names = ("common", "worker.sdk_worker", "portability.local_job_service")
    loggers = [
        logging.getLogger(),
        *(logging.getLogger(f"apache_beam.runners.{name}") for name in names),
    ]  # a remote runner's words come by the root
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
    """Shows elapsed time, and counts where the runner works in this process: a live line on a terminal, elsewhere a line every minute."""
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
    """Prints the funnel of a job that is done, and lines under it."""
    from rich.console import Console

    console = Console()
    console.print(table(Funnel.from_json(funnel), f"{name}: {seconds:.1f} s"))
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
