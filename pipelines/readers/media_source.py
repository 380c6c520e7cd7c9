"""Media files with their sidecars, from WebDataset tars and plain folders, as a source of Documents.

A record is one media file. In a tar its sample is the run of members with the same key, which is the path up to the
first dot of the base name (WebDataset's rule). The record is named after the media file's member. In a folder the
record is the file, and its sidecars are STEM.txt, .json, .vtt, .srt, or NAME.EXT.json and so on.

Anything that is not a record (a caption without an image, a link, a damaged header) becomes a dead letter of its own,
so that nothing in a file is skipped silently.
"""

import dataclasses
import posixpath
from collections.abc import Iterator

from castor.pipelines.core.sources import FileSource, open_regular
from castor.pipelines.document import BadInput, Element
from castor.pipelines.media import captions
from castor.pipelines.readers import tars
from castor.tasks.storage import storage

TAR_EXTENSIONS = ("tar",)
EXTENSIONS = {
    "image": ("jpg", "jpeg", "jpe", "jfif", "png", "webp"),
    "audio": ("wav", "flac", "mp3", "ogg", "oga", "opus", "webm", "mka", "mp4", "m4a", "3gp", "3gpp", "caf"),
    "video": ("mp4", "m4v", "mov", "webm", "mkv", "ogv", "3gp"),
}


@dataclasses.dataclass(frozen=True)
class MediaSource(FileSource):
    """Media files of one modality, each with its sidecars.

    modality: `image`, `audio` or `video`.

    max_bytes: maximum size of a media file; larger files become dead letters unread.
    """

    modality: str = "image"
    max_bytes: int = 64 << 20

    def records(self, uri: str) -> Iterator[Element]:
        """The elements of a tar, or of one file of a folder.

        A sidecar that belongs to a media file is part of that file's record.
        """
        extension = _extension(posixpath.basename(uri))
        if extension in TAR_EXTENSIONS:
            yield from self._tar(uri)
        elif extension in EXTENSIONS[self.modality]:
            yield self._file(uri)
        elif extension not in captions.EXTENSIONS:
            raise BadInput(
                "unsupported_format", f"no {self.modality} file, tar or sidecar has the extension {extension!r}"
            )
        elif not self._has_media(uri):
            raise BadInput("missing_media", f"no {self.modality} file belongs to this sidecar")

    def sidecars(self, uri: str) -> dict[str, str]:
        """Paths of the sidecars of a media file in a folder, by extension."""
        found, stem = {}, uri.rpartition(".")[0]
        if _extension(posixpath.basename(uri)) not in EXTENSIONS[self.modality]:
            return found
        for extension in captions.EXTENSIONS:
            path = next((p for p in (f"{stem}.{extension}", f"{uri}.{extension}") if storage.exists(p)), None)
            if path is not None:
                found[extension] = path
        return found

    def _file(self, uri: str) -> Element:
        sidecars = {extension: _read(path, captions.MAX_BYTES) for extension, path in self.sidecars(uri).items()}
        return self._sample_document(uri, "", _extension(uri), _read(uri, self.max_bytes), sidecars)

    def _has_media(self, uri: str) -> bool:
        """Whether the sidecar `uri` belongs to a media file: STEM.EXT, or the file to whose full name it adds an
        extension.
        """
        stem = uri.rpartition(".")[0]
        if _extension(posixpath.basename(stem)) in EXTENSIONS[self.modality] and storage.exists(stem):
            return True
        return any(
            storage.exists(f"{stem}.{e}") or storage.exists(f"{stem}.{e.upper()}") for e in EXTENSIONS[self.modality]
        )

    def _tar(self, uri: str) -> Iterator[Element]:
        earlier_keys: set[str] = set()
        key, parts = None, []
        with open_regular(uri) as file:
            for part in tars.read_members(file, self.max_bytes):
                # A fault outside of any record: the dead letter names the file, so that a replay reads the whole file.
                if not part.name:
                    yield self.dead(uri, "", part.error, f"at byte {part.offset}: {part.message}")
                    continue
                next_key, extension = _split_key(part.name)
                if key is not None and (next_key != key or extension in {e for e, _ in parts}):
                    yield from self._sample(uri, key, parts, key in earlier_keys)
                    earlier_keys.add(key)
                    parts = []
                key = next_key
                parts.append((extension, _distrusted(part)))
        if key is not None:
            yield from self._sample(uri, key, parts, key in earlier_keys)

    def _sample(
        self, uri: str, key: str, parts: list[tuple[str, tars.Member | tars.Fault]], repeated: bool
    ) -> Iterator[Element]:
        """The records of one sample, or one dead letter if the sample holds no record or any part is damaged."""
        media = [(e, p) for e, p in parts if _last(e) in EXTENSIONS[self.modality]]
        fault = next((p for _, p in parts if isinstance(p, tars.Fault)), None)
        if repeated:
            yield self.dead(
                uri, f"offset={parts[0][1].offset}", "repeated_key", f"key {key!r} has occurred before in this file"
            )
        elif fault is not None:
            record = media[0][1] if media else fault
            yield self.dead(
                uri, f"member={record.name}", fault.error, f"{fault.name!r} at byte {fault.offset}: {fault.message}"
            )
        elif not media:
            names = ", ".join(repr(p.name) for _, p in parts)
            yield self.dead(uri, f"member={parts[0][1].name}", "missing_media", f"no {self.modality} among {names}")
        else:
            sidecars = {_last(e): p.data for e, p in parts if _last(e) in captions.EXTENSIONS}
            others = sorted(e for e, _ in parts if _last(e) not in (*captions.EXTENSIONS, *EXTENSIONS[self.modality]))
            for extension, part in media:
                try:
                    yield self._sample_document(
                        uri, f"member={part.name}", _last(extension), part.data, sidecars, others
                    )
                except BadInput as error:
                    yield self.dead(uri, f"member={part.name}", error.error, error.message)

    def _sample_document(self, uri, key, extension, data, sidecars, others=()) -> Element:
        text, metadata = captions.read_sidecars(self.modality, sidecars)
        metadata["extension"] = extension
        if others:
            metadata["other_parts"] = list(others)
        return self.document(uri, key, text, data, **metadata)


def _read(path: str, limit: int) -> bytes:
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise BadInput("too_large", f"{posixpath.basename(path)} has more than {limit} bytes")
    return data


def _extension(name: str) -> str:
    return name.rpartition(".")[2].lower() if "." in name else ""


def _split_key(name: str) -> tuple[str, str]:
    """WebDataset's rule. Example: `a/b.c/000005.tar.gz.jpg` -> (`a/b.c/000005`, `tar.gz.jpg`)."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower()


def _last(extension: str) -> str:
    return extension.rpartition(".")[2]


def _distrusted(part: tars.Member | tars.Fault) -> tars.Member | tars.Fault:
    """A member whose name points outside the extraction folder, as a fault.

    Nothing is extracted here, but such a name was written with bad intent.
    """
    if isinstance(part, tars.Member) and (
        part.name.startswith("/") or ".." in part.name.split("/") or "\0" in part.name
    ):
        return tars.Fault("unsafe_name", "the name points outside the archive", part.offset, part.name)
    return part
