"""Tables and progress bars of the commands.

Tables are never truncated, text is never parsed as Rich markup, and progress bars are disabled when output is not a
terminal.
"""

import sys
import unicodedata


def printable(text: str) -> str:
    """Makes untrusted text safe to print: control characters except newline and tab become escape sequences."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs") else repr(c)[1:-1] for c in text)


class Progress:
    """A progress bar, updated by calling with (done, total). Prints only to a terminal, and disappears when finished.

    what: label of the bar.
    """

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


class Counter:
    """A progress bar, updated by calling with the number of items finished since the last call.

    what: label of the bar.
    total: number of items.
    """

    def __init__(self, what: str, total: int):
        self._progress, self._done, self._total = Progress(what), 0, total

    def __call__(self, more: int) -> None:
        self._done += more
        self._progress(self._done, self._total)


def console():
    """A Rich console that parses no markup. Output to a file or pipe is 240 columns wide, so tables do not wrap."""
    import rich.console

    return rich.console.Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 240)


def table(*columns: str):
    """A Rich table that folds long cells instead of truncating them.

    columns: headings; a leading > right-aligns the column.
    """
    import rich.box
    import rich.table

    result = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        result.add_column(
            column.removeprefix(">"), justify="right" if column.startswith(">") else "left", overflow="fold"
        )
    return result
