"""`castor infer --interactive`: a conversation with a model on a terminal.

A conversation is one stream of ids, whose keys and values stay on the device between turns. The model reads each typed
line and continues from there; its tokens are shown as they are sampled. Control characters never reach the terminal,
neither from the user's text nor from the model's.
"""

import contextlib
import dataclasses
import pathlib
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO

from castor.launch import terminal
from castor.launch.inference import pictures
from castor.tasks.errors import CastorError, ConfigurationError
from castor.train.inference.grammar import Grammar
from castor.train.inference.inference import Model, Sampling

COMMANDS = (
    ("TEXT", "adds the text; the model continues from there. An empty line only continues."),
    ("/image FILE", "shows the model a picture"),
    ("/draw [ROWSxCOLUMNS] CAPTION", "draws the caption into an image file"),
    ("/set NAME VALUE", "sets temperature, top_k, top_p, seed or max_tokens"),
    ("/show", "shows the settings and how much room is left in the stream"),
    ("/new", "starts a new stream: the model forgets the conversation"),
    ("/help", "shows this table"),
    ("Ctrl-C", "stops the current answer"),
    ("Ctrl-D", "quits"),
)
_KINDS = {"temperature": float, "top_k": int, "top_p": float, "seed": int}


class Conversation:
    """Reads lines and answers them.

    model: the loaded model.
    sampling: initial sampling settings.
    max_tokens: longest answer in tokens; None for as many as fit.
    read_picture: reads an image file, as `pictures.Reader` does.
    folder: where drawings are written.
    read: returns the next typed line, and raises EOFError at the end; default: the terminal.
    out: where answers are written; default: stdout.
    """

    def __init__(
        self,
        model: Model,
        sampling: Sampling,
        max_tokens: int | None,
        read_picture: Callable[[str], Any],
        folder: str = ".",
        read: Callable[[], str] | None = None,
        out: TextIO | None = None,
    ):
        self._model, self._sampling, self._max_tokens = model, sampling, max_tokens
        self._read_picture, self._folder = read_picture, pathlib.Path(folder)
        self._read, self._out = read or _typed, out or sys.stdout
        self.session = model.session()

    def run(self) -> int:
        """Answers until the input ends. Returns 0."""
        self._say(
            "The model continues from what you type. /help lists the commands; Ctrl-C stops an answer; Ctrl-D quits.\n"
        )
        while True:
            try:
                line = self._read()
            except EOFError:
                self._say("\n")
                return 0
            except KeyboardInterrupt:
                self._say("\nCtrl-D quits.\n")
                continue
            with _Interrupt() as interrupt:
                try:
                    self.turn(line, interrupt)
                except CastorError as error:
                    self._say(f"{error}\n")

    def turn(self, line: str, interrupt: "_Interrupt") -> None:
        """Handles one line: a command, or text to continue.

        Raises CastorError if the line cannot be handled; the stream is then unchanged.
        """
        command, _, rest = line.partition(" ")
        rest = rest.strip()
        if command == "/help":
            self._table(("what you type", "what it does"), COMMANDS)
        elif command == "/new":
            self.session = self._model.session()
        elif command == "/set":
            self._set(*(rest.split() + ["", ""])[:2])
        elif command == "/show":
            self._show()
        elif command == "/image":
            self._look(rest)
        elif command == "/draw":
            self._draw(rest, interrupt)
        elif command.startswith("/"):
            raise ConfigurationError(f"unknown command {command}.", "See /help.")
        else:
            self._answer(line, interrupt)

    def _answer(self, line: str, interrupt: "_Interrupt") -> None:
        if line:
            self.session.read(self._encode(line))
        if self.session.room < 1:
            raise ConfigurationError("the stream has reached the model's maximum length.", "Start a new one with /new.")
        ids: list[int] = []
        shown = ""
        for more in self.session.write(Grammar.text(), self._sampling, self._max_tokens):
            ids.extend(more)
            text = self._model.vocabulary.decode(ids)
            whole = text.rstrip("\ufffd")  # an incomplete UTF-8 sequence may still become a character
            self._say(whole[len(shown) :])
            shown = whole if len(whole) > len(shown) else shown
            if interrupt.asked:
                break
        self._say(self._model.vocabulary.decode(ids)[len(shown) :] + (" [stopped]\n" if interrupt.asked else "\n"))
        self._next_seed()

    def _draw(self, caption: str, interrupt: "_Interrupt") -> None:
        v = self._model.vocabulary
        v.need("image")
        first, _, rest = caption.partition(" ")
        size = None
        with contextlib.suppress(ConfigurationError):
            size = pictures.parse_size(first)
        ids = [*self._encode(rest.strip() if size else caption), v.control("<image>")]
        before = len(self.session.ids) + len(ids)
        grammar = self._model.image_grammar(before, size)
        self.session.read(ids)
        drawn: list[int] = []
        for more in self.session.write(grammar, self._sampling):
            drawn.extend(more)
            if interrupt.asked:
                break
        path = self._free_path()
        pictures.write(str(path), self._model.decode_image(drawn))
        self._say(f"{path}{' [stopped: the rest is empty]' if interrupt.asked else ''}\n")
        self._next_seed()

    def _look(self, path: str) -> None:
        if not path:
            raise ConfigurationError("/image needs a file.", "Write /image photo.jpg.")
        v = self._model.vocabulary
        v.need("image")
        pixels = self._read_picture(path)
        budget = min(self._model.image_budget, self.session.room - 5)
        if budget < 1:
            raise ConfigurationError("the stream has no room left for a picture.", "Start a new one with /new.")
        ids = v.encode_image(pixels, budget)
        self.session.read(ids)
        self._say(f"{len(ids)} tokens; enter an empty line to let the model continue.\n")

    def _set(self, name: str, value: str) -> None:
        try:
            if name == "max_tokens":
                self._max_tokens = None if value in ("", "none") else max(int(value), 1)
            elif name in _KINDS:
                self._sampling = dataclasses.replace(self._sampling, **{name: _KINDS[name](value)})
            else:
                raise ConfigurationError(f"unknown setting {name!r}.", "/show lists the settings.")
        except ValueError as error:
            raise ConfigurationError(
                f"{value!r} is not a value of {name}.", "Write /set NAME VALUE, e.g. /set temperature 0.5."
            ) from error

    def _show(self) -> None:
        settings = {
            **{name: getattr(self._sampling, name) for name in _KINDS},
            "max_tokens": self._max_tokens or "as many as fit",
        }
        settings |= {"tokens so far": len(self.session.ids), "room left": self.session.room}
        self._table(("setting", "value"), [(name, str(value)) for name, value in settings.items()])

    def _encode(self, text: str) -> list[int]:
        return self._model.vocabulary.encode(("\n" if self.session.ids else "") + text)

    def _next_seed(self) -> None:
        """Changes the seed after each answer, so that repeating a question can give another one."""
        self._sampling = dataclasses.replace(self._sampling, seed=self._sampling.seed + 1)

    def _free_path(self) -> pathlib.Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        number = 0
        while (path := self._folder / f"drawn-{number:03d}.png").exists():
            number += 1
        return path

    def _say(self, text: str) -> None:
        self._out.write(terminal.printable(text))
        self._out.flush()

    def _table(self, columns: tuple[str, str], rows) -> None:
        import rich.console

        table = terminal.table(*columns)
        for row in rows:
            table.add_row(*row)
        rich.console.Console(file=self._out, markup=False, highlight=False).print(table)


class _Interrupt:
    """While active, Ctrl-C sets `asked` to stop the current answer, instead of raising KeyboardInterrupt.

    Python handles signals only in the main thread; in other threads `asked` stays false.
    """

    def __init__(self):
        self.asked = False

    def __enter__(self) -> "_Interrupt":
        self._before = None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *_) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _on_signal(self, number, frame) -> None:
        self.asked = True


def _typed() -> str:
    """Reads the next typed line, with line editing if the terminal supports it."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (input() uses it)
    line = input("> " if sys.stdin.isatty() else "")
    return line.encode("utf-8", "replace").decode("utf-8")  # undecodable bytes arrive as lone surrogates
