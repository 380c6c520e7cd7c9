"""Gin, kept thin: find the files, apply the bindings, and turn gin's own complaints into one clear line.

Configurables are typed frozen dataclasses spread over the rooms; this file only parses. Configuration files live in the `gin/` folder of a
checkout, which a wheel installs as `castor/gin/`; both are found without a flag. Names, macros and flags are T5X's:
`--gin_file=runs/pretrain.gin`, `--gin.BATCH_SIZE=8`, `--gin_search_paths=DIR`.
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
    """The folder of Castor's own gin files: `gin/` beside `tasks/`, in a checkout and in an installed wheel alike."""
    folder = pathlib.Path(__file__).resolve().parent.parent / "gin"
    if not (folder / "recipes").is_dir():
        raise ConfigurationError(f"Castor's gin files are not in {folder}.", "Reinstall Castor.")
    return folder


@dataclasses.dataclass(frozen=True)
class Flags:
    """What a command line says of gin: files in order, bindings in order (each wins over what stands before it), extra search folders."""

    files: tuple[str, ...] = ()
    bindings: tuple[str, ...] = ()
    search_paths: tuple[str, ...] = ()

    def or_files(self, *files: str) -> "Flags":
        """These flags with `files` where the command line names none."""
        return self if self.files else dataclasses.replace(self, files=files)


def split_flags(arguments: Sequence[str]) -> tuple[Flags, list[str]]:
    """Takes the gin flags out of a command line and returns them with the arguments that remain, in order.

    `--gin_file=F`, `--gin_file F`, `--gin.NAME=VALUE`, `--gin_bindings=LINE`, `--gin_search_paths=DIR[,DIR]`.
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
    """Finds a gin file as given, under the search folders, then under Castor's own folder (with or without its leading `gin/`)."""
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
        f"gin file {name!r} is not found.",
        f"Did you mean {' or '.join(close)}?" if close else f"Castor's own files are under {own}.",
    )


def parse(flags: Flags, skip_unknown: bool = False) -> None:
    """Clears gin and parses files, then bindings. The modules whose configurables are bound must be imported, by the caller or by the files.

    Raises ConfigurationError, in one line naming file and line or the binding, for whatever gin refuses and for a command-line macro that no
    file binds or uses, which gin itself would accept in silence.
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
    """The value of a macro after `parse`, or `default` where none is bound."""
    try:
        return gin.query_parameter(f"%{name}")
    except ValueError:
        return default


def operative_config() -> str:
    """The bindings that were used, as gin text."""
    return gin.operative_config_str(max_line_length=120)


class _Text(io.StringIO):
    """A gin file's text for gin's parser, which takes the file's name for its messages from `name`."""

    def __init__(self, text: str, name: str):
        super().__init__(text)
        self.name = name


def _open(path: str) -> _Text:
    return _Text(with_present_names(pathlib.Path(path).read_text(encoding="utf-8")), path)


def with_present_names(text: str) -> str:
    """Gin text with former names replaced: of modules in import statements, of parameters in bindings and blocks.

    tasks/former_names.py holds the tables.
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
    """The modules that the import statements of gin text name, by their present names."""
    return [former_names.module(module) for _, _, module, _ in _imports(text)]


def _imports(text: str) -> Iterator[tuple[tuple[int, int], tuple[int, int], str, bool]]:
    """(start, stop, module, is_from) of every import statement; positions are (row from 1, column from 0).

    Gin reads its files by Python's tokens, and so does this search: a line inside a multi-line string is no statement.
    """
    for _, statement in _statements(text):
        if found := _import_of(statement):
            yield found


def _bindings(text: str) -> Iterator[tuple[str, tokenize.TokenInfo]]:
    """(selector without its scopes, the token that names the parameter) of every binding; those of a block have its selector."""
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
    """(whether it is indented, its tokens without comments) of every statement that is not empty."""
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
        return  # gin says where


def _import_of(statement: list[tokenize.TokenInfo]):
    """What `_imports` yields for one statement; None if it imports nothing or is continued by a backslash."""
    words = [token.string for token in statement]
    if words[:1] not in (["import"], ["from"]):
        return None
    end = words.index("as") if "as" in words else len(words)
    path = "".join("." if word == "import" else word for word in words[1:end])
    first, last = statement[0], statement[end - 1]
    return (first.start, last.end, path, words[0] == "from") if first.start[0] == last.end[0] else None


def texts(files: Sequence[str], search_paths: Sequence[str] = ()) -> list[str]:
    """The texts of gin files and of everything they include."""
    return _texts([find_file(name, search_paths) for name in files], search_paths)


def _texts(files: Sequence[pathlib.Path], search_paths: Sequence[str]) -> list[str]:
    seen, queue, texts = set(), list(files), []
    while queue:
        path = queue.pop().resolve()
        if path not in seen:
            seen.add(path)
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
                f"gin macro {name} (from --gin.{name}=...) is neither bound nor used in {', '.join(map(str, flags.files)) or 'any gin file'}.",
                f"Did you mean {names}?" if close else f"The macros there are: {names}.",
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
            return f"Import it in a gin file: `import {homes[0]}`; or name the gin file that does."
        return _close_to(name)
    if "doesn't have a parameter" in text or "No parameter" in text or "has no parameter" in text:
        return "Check the parameter's name; the command's --help lists the gin files that show it."
    if isinstance(error, SyntaxError):
        return "Strings need quotes: --gin.NAME='\"text\"'."
    return ""


def _modules_named(name: str) -> list[str]:
    """Modules of Castor of this name that are there to be imported: gin knows only what has been."""
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
