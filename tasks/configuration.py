"""Parses gin files and bindings, and turns gin's errors into one-line messages.

Configurables are frozen dataclasses in all rooms; this file only parses. Castor's gin files are in the `gin/` folder
of a checkout, which a wheel installs as `castor/gin/`; both are found without a flag. Names, macros and flags are
those of T5X: `--gin_file=runs/pretrain.gin`, `--gin.BATCH_SIZE=8`, `--gin_search_paths=DIR`.
"""

import dataclasses
import difflib
import io
import os
import pathlib
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence

import gin
from castor.tasks import former_names
from castor.tasks.errors import ConfigurationError
from castor.tasks.fingerprint import ROOMS

_INCLUDE = re.compile(r"""^\s*include\s+['"]([^'"]+)['"]""", re.MULTILINE)
_MACRO_USE = re.compile(r"%([A-Za-z_][\w.]*)")
_MACRO_BINDING = re.compile(r"^([A-Za-z_]\w*)\s*=", re.MULTILINE)  # indented, it is a parameter of a block


def gin_root() -> pathlib.Path:
    """The folder of Castor's gin files, `gin/` in the same folder as `tasks/`. Raises ConfigurationError if it is
    missing.
    """
    folder = pathlib.Path(__file__).resolve().parent.parent / "gin"
    if not (folder / "recipes").is_dir():
        raise ConfigurationError(f"Castor's gin files are not in {folder}.", "Reinstall Castor.")
    return folder


@dataclasses.dataclass(frozen=True)
class Flags:
    """The gin flags of a command line.

    files: gin files, in order.

    bindings: bindings, in order; a later one overrides an earlier one.

    search_paths: additional folders in which gin files are searched.
    """

    files: tuple[str, ...] = ()
    bindings: tuple[str, ...] = ()
    search_paths: tuple[str, ...] = ()

    def or_files(self, *files: str) -> "Flags":
        """These flags, with `files` if the command line has no gin file."""
        return self if self.files else dataclasses.replace(self, files=files)


def split_flags(arguments: Sequence[str]) -> tuple[Flags, list[str]]:
    """Splits a command line into its gin flags and the other arguments, in order.

    Gin flags are `--gin_file=F`, `--gin_file F`, `--gin.NAME=VALUE`, `--gin_bindings=LINE` and
    `--gin_search_paths=DIR[,DIR]`.

    arguments: command line without the program.

    Raises ConfigurationError for a gin flag without a value.
    """
    files: list[str] = []
    bindings: list[str] = []
    paths: list[str] = []
    rest: list[str] = []
    queue = list(arguments)
    while queue:
        argument = queue.pop(0)
        flag, equals, value = argument.partition("=")
        if flag in ("--gin_file", "--gin_bindings", "--gin_search_paths"):
            if not equals:
                if not queue:
                    raise ConfigurationError(f"{flag} needs a value.", f"Write {flag}=VALUE.")
                value = queue.pop(0)
            if flag == "--gin_file":
                files.append(value)
            elif flag == "--gin_bindings":
                bindings.append(value)
            else:
                paths.extend(p for p in value.split(",") if p)
        elif flag.startswith("--gin."):
            if not equals:
                raise ConfigurationError(
                    f"{argument} has no value.", f"Write {argument}=VALUE; strings need quotes: {argument}='\"text\"'."
                )
            bindings.append(f"{flag.removeprefix('--gin.')} = {value}")
        else:
            rest.append(argument)
    return Flags(tuple(files), tuple(bindings), tuple(paths)), rest


def find_file(name: str, search_paths: Sequence[str] = ()) -> pathlib.Path:
    """The path of a gin file: as given, in the search folders, or in Castor's own folder, with or without `gin/`.

    name: path as the user wrote it.

    search_paths: additional folders.

    Raises ConfigurationError if the file is in none of them.
    """
    own = gin_root()
    candidates = [
        pathlib.Path(name),
        *(pathlib.Path(p) / name for p in search_paths),
        own / name,
        own / name.removeprefix("gin/"),
    ]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    known = [str(p.relative_to(own)) for p in sorted(own.rglob("*.gin"))]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    raise ConfigurationError(
        f"gin file {name!r} was not found.",
        f"Did you mean {' or '.join(close)}?" if close else f"Castor's own files are under {own}.",
    )


def parse(flags: Flags, skip_unknown: bool = False) -> None:
    """Clears gin's state and parses files, then bindings. Modules with bound configurables must be imported first.

    The caller or the gin files import them.

    flags: files, bindings and search folders.

    skip_unknown: whether to ignore bindings of unknown configurables.

    Raises ConfigurationError, in one line with file and line or binding, for every error of gin. A command-line macro
    that no file binds or uses is an error too; gin alone would ignore it.
    """
    gin.clear_config()
    # Plain files only: gin's resource reader fails on namespace packages.
    gin.config._FILE_READERS[:] = [(_open, os.path.isfile)]
    own = str(gin_root())
    for folder in (*flags.search_paths, own):
        if folder not in gin.config._LOCATION_PREFIXES:
            gin.add_config_file_search_path(folder)
    files = [find_file(name, flags.search_paths) for name in flags.files]
    _check_macros(files, flags)
    try:
        for path in files:
            gin.parse_config_file(str(path), skip_unknown=skip_unknown)
        for binding in flags.bindings:
            try:
                gin.parse_config(with_present_names(binding), skip_unknown=skip_unknown)
            except Exception as error:
                raise ConfigurationError(f"gin binding {binding!r}: {_first_line(error)}", _hint(error)) from error
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(f"gin: {_first_line(error)}", _hint(error)) from error


def macro(name: str, default=None):
    """The value of a macro after `parse`, or `default` if the macro is unbound."""
    try:
        return gin.query_parameter(f"%{name}")
    except ValueError:
        return default


def operative_config() -> str:
    """The bindings that were used, as gin text: the operative configuration."""
    return gin.operative_config_str(max_line_length=120)


class _Text(io.StringIO):
    """The text of a gin file for gin's parser, which reports `name` in its messages."""

    def __init__(self, text: str, name: str):
        super().__init__(text)
        self.name = name


def _open(path: str) -> _Text:
    return _Text(with_present_names(pathlib.Path(path).read_text(encoding="utf-8")), path)


def with_present_names(text: str) -> str:
    """Gin text with former names replaced: module names in import statements, parameter names in bindings and blocks.

    tasks/former_names.py has the tables.
    """
    lines = text.split("\n")
    replaced = []
    for (row, start), (_, stop), module, is_from in _imports(text):
        present = former_names.module(module)
        if present != module:
            home, _, name = present.rpartition(".")
            replaced.append((row, start, stop, f"from {home} import {name}" if is_from else f"import {present}"))
    for selector, token in _bindings(text):
        present = former_names.parameter(selector, token.string)
        if present != token.string:
            replaced.append((token.start[0], token.start[1], token.end[1], present))
    for row, start, stop, present in sorted(replaced, reverse=True):
        lines[row - 1] = lines[row - 1][:start] + present + lines[row - 1][stop:]
    return "\n".join(lines)


def imported_modules(text: str) -> list[str]:
    """The modules in the import statements of gin text, by their present names."""
    return [former_names.module(module) for _, _, module, _ in _imports(text)]


def _imports(text: str) -> Iterator[tuple[tuple[int, int], tuple[int, int], str, bool]]:
    """Yields (start, stop, module, is_from) for every import statement; positions are (row from 1, column from 0).

    Gin parses its files as Python tokens, and so does this function: a line in a multi-line string is not a statement.
    """
    for _, statement in _statements(text):
        if found := _import_of(statement):
            yield found


def _bindings(text: str) -> Iterator[tuple[str, tokenize.TokenInfo]]:
    """Yields (selector without scopes, token of the parameter name) of every binding, also for bindings in a block."""
    block = ""
    for is_indented, statement in _statements(text):
        words = [token.string for token in statement]
        if not is_indented:
            block = "".join(words[:-1]).rpartition("/")[2] if words[-1] == ":" else ""
        if "=" not in words[1:]:
            continue
        end = words.index("=")
        if block:
            yield block, statement[0]
        elif "." in words[:end]:
            yield "".join(words[: end - 2]).rpartition("/")[2], statement[end - 1]


def _statements(text: str) -> Iterator[tuple[bool, list[tokenize.TokenInfo]]]:
    """Yields (whether it is indented, tokens without comments) of every statement."""
    statement: list[tokenize.TokenInfo] = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type in (tokenize.NEWLINE, tokenize.NL, tokenize.ENDMARKER):
                if statement and token.type != tokenize.NL:
                    yield statement[0].start[1] > 0, statement
                if token.type != tokenize.NL:
                    statement = []
            elif token.type not in (tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT):
                statement.append(token)
    except (tokenize.TokenError, SyntaxError):
        return  # gin's own parser reports the error


def _import_of(statement: list[tokenize.TokenInfo]):
    """The result of `_imports` for one statement; None if it imports nothing or continues after a backslash."""
    words = [token.string for token in statement]
    if words[:1] not in (["import"], ["from"]):
        return None
    end = words.index("as") if "as" in words else len(words)
    path = "".join("." if word == "import" else word for word in words[1:end])
    first, last = statement[0], statement[end - 1]
    return (first.start, last.end, path, words[0] == "from") if first.start[0] == last.end[0] else None


def texts(files: Sequence[str], search_paths: Sequence[str] = ()) -> list[str]:
    """The texts of gin files and of all files that they include.

    files: gin files.

    search_paths: additional folders.
    """
    return _texts([find_file(name, search_paths) for name in files], search_paths)


def _texts(files: Sequence[pathlib.Path], search_paths: Sequence[str]) -> list[str]:
    visited, queue, texts = set(), list(files), []
    while queue:
        path = queue.pop().resolve()
        if path not in visited:
            visited.add(path)
            texts.append(path.read_text(encoding="utf-8"))
            queue.extend(find_file(name, search_paths) for name in _INCLUDE.findall(texts[-1]))
    return texts


def _check_macros(files: Sequence[pathlib.Path], flags: Flags) -> None:
    bound = [m.group(1) for b in flags.bindings if (m := re.match(r"\s*([A-Za-z_]\w*)\s*=", b))]
    if not bound:
        return
    known: set[str] = set()
    for text in (*_texts(files, flags.search_paths), *flags.bindings):
        known.update(_MACRO_USE.findall(text))
    for text in _texts(files, flags.search_paths):
        known.update(_MACRO_BINDING.findall(text))
    for name in bound:
        if name not in known:
            close = difflib.get_close_matches(name, sorted(known), n=2)
            names = " or ".join(close) if close else ", ".join(sorted(n for n in known if n.isupper()))
            raise ConfigurationError(
                f"gin macro {name} (from --gin.{name}=...) is neither bound nor used in "
                f"{', '.join(map(str, flags.files)) or 'any gin file'}.",
                f"Did you mean {names}?" if close else f"The existing macros are: {names}.",
            )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    where = next((line for line in lines if line.startswith("In ")), "")
    first = lines[0] if lines else type(error).__name__
    return f"{first} {where}".strip() if where and where != first else first


def _hint(error: Exception) -> str:
    text = str(error)
    if "No configurable matching" in text:
        wanted = re.search(r"matching (?:reference )?'@?(?:[^'/]*/)?([^'()]+)", text)
        name = wanted.group(1) if wanted else ""
        homes = _modules_named(name.split(".")[0]) if "." in name else []
        if homes:
            return f"Import it in a gin file: `import {homes[0]}`; or name the gin file that imports it."
        return _close_to(name)
    if "doesn't have a parameter" in text or "No parameter" in text or "has no parameter" in text:
        return "Check the parameter's name; the command's --help lists the gin files that bind it."
    if isinstance(error, SyntaxError):
        return "Strings need quotes: --gin.NAME='\"text\"'."
    return ""


def _modules_named(name: str) -> list[str]:
    """Castor's modules of this name that are not imported yet, and therefore unknown to gin."""
    home = pathlib.Path(__file__).resolve().parent.parent
    found = (
        [
            path.relative_to(home).with_suffix("")
            for room in ROOMS
            for path in sorted((home / room.rpartition(".")[2]).rglob(f"{name}.py"))
        ]
        if name.isidentifier()
        else []
    )
    return [module for path in found if (module := ".".join(("castor", *path.parts))) not in sys.modules]


def _close_to(name: str) -> str:
    known = sorted(known for known, _ in gin.config._REGISTRY.items())
    if "." in name:
        names = {".".join(k.rsplit(".", 2)[-2:]): k for k in known}
        close = difflib.get_close_matches(name, list(names), n=2, cutoff=0.75)
    else:
        names = {k.rsplit(".", 1)[-1]: k for k in known}
        close = difflib.get_close_matches(name, list(names), n=2)
    return f"Did you mean {' or '.join(names[c] for c in close)}?" if close else "Check the name before the parameter."
