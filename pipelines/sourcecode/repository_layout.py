"""Lays out one repository as one document, or as parts of bounded length, with dependencies before their users.

    <repo_name>NAME<file_sep>src/a.py
    ...the exact text of src/a.py...<file_sep>src/b.py
    ...

The layout is StarCoder2's (Lozhkov et al. 2024, arXiv 2402.19173, section 5). The marks are plain text, which a
vocabulary may hold as symbols. A file whose text contains the marks can look like two files. The authoritative list is
`metadata["members"]`, one entry per file or piece of a file:

    {"id": ..., "path": ..., "source": ..., "start": 24, "end": 730, "piece": 1}

text[start:end] is the file; a file that was cut has `piece`, counted from 0. The table of outcomes has a row for each
file, which names its repository document.

Directories and files are sorted by name. Before each file come its dependencies (pipelines/sourcecode/imports.py), each
as soon as it is first needed. This depth-first walk keeps files that use each other close together; of a cycle, the
file that the walk reaches first is last. The result depends only on the paths, texts and ids of the files, not on their
order. This file knows no Beam.
"""

import dataclasses
from collections.abc import Iterable, Iterator

import gin
from castor.pipelines.core.sources import CONTENT, LOCATION, reference
from castor.pipelines.core.surrogates import escape_surrogates
from castor.pipelines.document import Document, content_id, document_id
from castor.pipelines.sourcecode import imports
from castor.tasks.errors import ConfigurationError

ORDERS = ("dependencies", "paths")


@gin.configurable(module="repositories")
@dataclasses.dataclass(frozen=True)
class Layout:
    """How a repository becomes documents.

    max_characters: maximum length of one part; 0 for no limit. A longer file is cut, at line ends if possible.

    order: one of ORDERS.

    repository_mark, file_mark: start of each part and of each file, with `{repository}` and `{path}` filled in.
    """

    max_characters: int = 1 << 20
    order: str = "dependencies"
    repository_mark: str = "<repo_name>{repository}"
    file_mark: str = "<file_sep>{path}\n"

    def __post_init__(self):
        if self.order not in ORDERS:
            raise ConfigurationError(
                f"repositories.Layout.order is {self.order!r}.", f"Choose one of {', '.join(ORDERS)}."
            )
        if self.max_characters < 0:
            raise ConfigurationError(
                f"repositories.Layout.max_characters is {self.max_characters}.",
                "Set a positive number, or 0 for no limit.",
            )

    def documents(self, corpus: str, files: Iterable[Document], identity: str = LOCATION) -> list[Document]:
        """The files of one repository as documents; every file is in exactly one, or in pieces in several.

        corpus: name of the corpus.

        files: the kept files of the repository, in any order.

        identity: source of the ids: LOCATION (repository name and archive) or CONTENT (sources.FileSource).
        """
        ordered = self.ordered(list(files))
        if not ordered:
            return []
        repository = str(ordered[0].metadata.get("repository", ""))
        parts = list(self._parts(repository, ordered))
        container = container_of(ordered[0])
        key = f"repository={key_of(ordered[0])}"
        made = []
        for number, (text, members, inside) in enumerate(parts):
            part = f"part={number}" if len(parts) > 1 else ""
            facts = _facts(repository, text, members, inside) | ({"part": number, "parts": len(parts)} if part else {})
            if identity == CONTENT:
                held = facts | {"members": [{k: v for k, v in member.items() if k != "source"} for member in members]}
                identifier = content_id(corpus, ordered[0].modality, text, None, held, "repository")
            else:
                identifier = document_id(corpus, f"{key}#{part}")
            made.append(
                Document(
                    identifier,
                    reference(container, part),
                    ordered[0].modality,
                    text,
                    None,
                    facts,
                )
            )
        return made

    def ordered(self, files: list[Document]) -> list[Document]:
        """The files in the order of the layout."""
        files = sorted(files, key=_place)
        if self.order == "paths":
            return files
        by_path: dict[str, list[Document]] = {}
        for file in files:  # an archive can contain a path twice
            by_path.setdefault(_path(file), []).append(file)
        needed = imports.dependencies({path: (_language(same[0]), same[0].text) for path, same in by_path.items()})
        return [file for path in dependencies_first(list(by_path), needed) for file in by_path[path]]

    def _parts(self, repository: str, files: list[Document]) -> Iterator[tuple[str, list[dict], list[Document]]]:
        """Yields (text, members, files) of each part: as many whole files as fit.

        A file that is too long for a part is cut into pieces.
        """
        begin = self.repository_mark.replace("{repository}", repository)
        texts, members, inside, length = [begin], [], [], len(begin)
        for file in files:
            mark = self.file_mark.replace("{path}", _path(file))
            room = self.max_characters - len(begin) - len(mark) if self.max_characters else len(file.text)
            pieces = [file.text] if len(file.text) <= room else cut(file.text, max(1, room))
            for number, piece in enumerate(pieces):
                if members and self.max_characters and length + len(mark) + len(piece) > self.max_characters:
                    yield "".join(texts), members, inside
                    texts, members, inside, length = [begin], [], [], len(begin)
                start = length + len(mark)
                member = {
                    "id": file.id,
                    "path": _path(file),
                    "source": escape_surrogates(file.source),
                    "start": start,
                    "end": start + len(piece),
                }
                members.append(member | ({"piece": number} if len(pieces) > 1 else {}))
                texts += (mark, piece)
                inside.append(file)
                length = start + len(piece)
        yield "".join(texts), members, inside


def dependencies_first(paths: list[str], needed: dict[str, list[str]]) -> list[str]:
    """The paths, each after its dependencies, as far as cycles allow.

    Example: paths [a, b, c] where a needs c give [c, a, b].

    A depth-first walk from the first path on, without recursion.
    """
    done: dict[str, None] = {}
    begun: set[str] = set()
    for root in paths:
        if root in begun:
            continue
        begun.add(root)
        stack = [(root, iter(needed.get(root, ())))]
        while stack:
            path, rest = stack[-1]
            following = next((other for other in rest if other not in begun), None)
            if following is None:
                stack.pop()
                done[path] = None
            else:
                begun.add(following)
                stack.append((following, iter(needed.get(following, ()))))
    return list(done)


def cut(text: str, most: int) -> list[str]:
    """A text in pieces of at most `most` characters, each ending with a line if possible.

    Example: cut("ab\\ncd", 4) gives ["ab\\n", "cd"].
    """
    pieces, start = [], 0
    while len(text) - start > most:
        end = text.rfind("\n", start, start + most) + 1
        end = end if end > start else start + most
        pieces.append(text[start:end])
        start = end
    return [*pieces, text[start:]]


def key_of(file: Document) -> str:
    """What identifies a file's repository: its name and, for an archive, the archive's name."""
    container, member, _ = file.source.partition("#member=")
    return f"{file.metadata.get('repository', '')}/{container.rpartition('/')[2] if member else ''}"


def container_of(file: Document) -> str:
    """Where the repository is under the root: the archive, the folder (`a/`), or `./` for files directly under the
    root.
    """
    container, member, _ = file.source.partition("#member=")
    if member:
        return container
    folder, slash, _ = _path(file).partition("/")
    return folder + "/" if slash else "./"


def _facts(repository: str, text: str, members: list[dict], files: list[Document]) -> dict:
    """Metadata of a part: members; characters per language, the most frequent one as `language`; licences; secrets."""
    languages: dict[str, int] = {}
    secrets: dict[str, int] = {}
    for member, file in zip(members, files):
        languages[_language(file)] = languages.get(_language(file), 0) + member["end"] - member["start"]
        if not member.get("piece"):
            for kind, count in file.metadata.get("secrets", {}).items():
                secrets[kind] = secrets.get(kind, 0) + count
    main = max(sorted(languages), key=languages.__getitem__)
    found = {
        "repository": repository,
        "language": main,
        "languages": languages,
        "licences": sorted({name for file in files for name in file.metadata.get("licences", ())}),
        "members": members,
    }
    return found | ({"secrets": secrets} if secrets else {})


def _path(file: Document) -> str:
    return str(file.metadata.get("path", ""))


def _language(file: Document) -> str:
    return str(file.metadata.get("language", ""))


def _place(file: Document) -> tuple[list[str], str]:
    return _path(file).split("/"), file.id
