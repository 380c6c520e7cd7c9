"""What commands show on a terminal: tables and progress bars. Nothing is cut, nothing is markup, and nothing moves where nobody looks."""

import sys
import unicodedata


def printable(text: str) -> str:
    """A text from a stranger, or a model, as a terminal may show it: control characters but newline and tab as their escapes."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs") else repr(c)[1:-1] for c in text)


class Progress:
    """A progress bar on a terminal, called with (done, total); silent elsewhere, and gone when all is done."""

    def __init__(self, what: str):
        self._what, self._bar = what, None

    def __call__(self, done: int, total: int) -> None:
        if self._bar is None:
            import rich.console
            import rich.progress

            self._bar = rich.progress.Progress(
                console=rich.console.Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
            )
            self._task = self._bar.add_task(self._what, total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done)
        if done == total:
            self._bar.stop()
            self._bar = None


class Tally:
    """A Progress that is told how many more are done."""

    def __init__(self, what: str, total: int):
        self._progress, self._done, self._total = Progress(what), 0, total

    def __call__(self, more: int) -> None:
        self._done += more
        self._progress(self._done, self._total)


def console():
    """A console that never cuts a line when its output goes to a file or a pipe, and takes no text for markup."""
    import rich.console

    return rich.console.Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 240)


def table(*columns: str):
    """A rich table; a leading > sets a column to the right. No cell is cut: long ones fold."""
    import rich.box
    import rich.table

    result = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        result.add_column(
            column.removeprefix(">"), justify="right" if column.startswith(">") else "left", overflow="fold"
        )
    return result
