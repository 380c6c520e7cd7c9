"""One repository as one document, or as parts of bounded length: its files in an order in which what is used comes before what uses it.

    <repo_name>NAME<file_sep>src/a.py
    ...the text of src/a.py, to the character...<file_sep>src/b.py
    ...

The layout is StarCoder2's (Lozhkov et al. 2024, arXiv 2402.19173, section 5); the marks are plain text, which a vocabulary may hold as
symbols. A file that has the marks in its text can pretend to be two: what is true is `metadata["members"]`, one entry a file or piece of one,

    {"id": ..., "path": ..., "source": ..., "start": 24, "end": 730, "piece": 1}

text[start:end] is the file; `piece`, from 0, is there where it was cut. The table of outcomes has a row for each file, which says where it stands.

Order: directories and files by name; before each file, those it needs (pipelines/sourcecode/imports.py), each as soon as it is first needed. That is a
depth-first walk, so neighbours in use are neighbours in the document; of a cycle, the file that the walk comes to first is last. Everything
follows from the paths, texts and ids of the files alone, in whatever order they come. This file knows no Beam.
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
    """max_characters: of one part; a longer file is cut, at line ends where it has them; 0 for no limit. order: one of ORDERS.
    repository_mark, file_mark: what a part and each file begin with; `{repository}` and `{path}` are filled in.
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
                f"repositories.Layout.max_characters is {self.max_characters}.", "Give it 0 for no limit, or more."
            )

    def documents(self, corpus: str, files: Iterable[Document], identity: str = LOCATION) -> list[Document]:
        """The files of one repository as documents of the corpus named `corpus`; every file is in exactly one, or in pieces in several.

        identity: what ids come from, the repository's name and archive or what the document holds (sources.FileSource).
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
        for file in files:  # an archive can hold a path twice
            by_path.setdefault(_path(file), []).append(file)
        needed = imports.dependencies({path: (_language(same[0]), same[0].text) for path, same in by_path.items()})
        return [file for path in dependencies_first(list(by_path), needed) for file in by_path[path]]

    def _parts(self, repository: str, files: list[Document]) -> Iterator[tuple[str, list[dict], list[Document]]]:
        """(text, members, files) of each part: as many whole files as fit, a file that fits nowhere in pieces of its own."""
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
    """The paths, each after those it needs, as far as cycles allow: a depth-first walk from the first path on, without recursion."""
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
    """A text in pieces of at most `most` characters, each ending with a line where there is one to end with."""
    pieces, start = [], 0
    while len(text) - start > most:
        end = text.rfind("\n", start, start + most) + 1
        end = end if end > start else start + most
        pieces.append(text[start:end])
        start = end
    return [*pieces, text[start:]]


def key_of(file: Document) -> str:
    """What the files of one repository have in common and no others: its name and, if it is an archive, the archive's."""
    container, member, _ = file.source.partition("#member=")
    return f"{file.metadata.get('repository', '')}/{container.rpartition('/')[2] if member else ''}"


def container_of(file: Document) -> str:
    """Where the repository is under the root: the archive, the folder (`a/`), or for files directly under the root `./`."""
    container, member, _ = file.source.partition("#member=")
    if member:
        return container
    folder, slash, _ = _path(file).partition("/")
    return folder + "/" if slash else "./"


def _facts(repository: str, text: str, members: list[dict], files: list[Document]) -> dict:
    """Metadata of a part: its members; languages by characters, the largest of them as `language`; licences and secrets of all."""
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
