"""A data set that is still an archive: unpacked once into the user's cache, and never anywhere else.

`.tar`, `.tar.gz`, `.tgz` and `.zip`. The folder is named by a hash of the archive's bytes, so the same archive is unpacked
once wherever it lies, and a changed one anew. Archives are read as hostile: only plain files and folders with plain names
come out, and not more bytes than the limit.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from partwise.config import UserError

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
CHUNK = 1 << 20
MEMBERS_LIMIT = 5_000_000


def is_archive(path: Path) -> bool:
    """Whether a path is named like an archive that can be read (and is not a folder)."""
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def unpack(archive: Path, *, limit: int | None = None, cache: Path | None = None) -> Path:
    """The folder of an archive's content, unpacked now or earlier.

    `limit`: bytes that may come out, by default a gibibyte or a hundred times the archive, whichever is more (pictures hardly
    shrink; what swells further is a bomb). `cache`: where to unpack, by default `partwise/archives` under `XDG_CACHE_HOME` or
    `~/.cache`, and beside the archive where that cannot be written. The folder appears whole or not at all. Raises UserError
    for an archive that cannot be read, holds links, devices or names that lead outside, or is over the limit.
    """
    try:
        name = f"{archive.name.split('.')[0]}-{_content_hash(archive)}"
        limit = max(1 << 30, 100 * archive.stat().st_size) if limit is None else limit
    except OSError as error:
        raise UserError(f"{archive}: cannot be read: {error.strerror}") from error
    caches = [cache] if cache else [_user_cache(), archive.parent / ".partwise-cache"]
    for folder in caches:
        if (folder / name).is_dir():
            return folder / name
    return _unpack_whole(archive, _first_writable(caches, archive) / name, limit)


def _user_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "partwise" / "archives"


def _first_writable(folders: list[Path], archive: Path) -> Path:
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    tried = " nor ".join(str(folder) for folder in folders)
    raise UserError(
        f"{archive}: cannot be unpacked, neither {tried} can be written; set XDG_CACHE_HOME to a folder that can"
    )


def _content_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _unpack_whole(archive: Path, target: Path, limit: int) -> Path:
    """Unpack beside the target and rename: a reader never meets half an archive, and two may unpack at once."""
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
    try:
        _write_members(archive, partial, limit)
        try:
            partial.rename(target)
        except OSError:
            if not target.is_dir():  # otherwise another process was faster, with the same content
                raise
    except UserError:
        raise
    except Exception as error:  # damaged archives raise a dozen kinds of error
        raise UserError(f"{archive}: cannot be unpacked: {error or type(error).__name__}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _write_members(archive: Path, folder: Path, limit: int) -> None:
    left = limit
    for count, (name, stream) in enumerate(_members(archive, limit)):
        if count >= MEMBERS_LIMIT:
            raise UserError(f"{archive}: holds more than {MEMBERS_LIMIT:,} members; refused")
        path = folder / _safe_name(archive, name)
        if stream is None:
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            while chunk := stream.read(min(CHUNK, left + 1)):
                left -= len(chunk)
                if left < 0:
                    raise UserError(f"{archive}: unpacks to more than {limit:,} bytes; refused as a bomb")
                file.write(chunk)


def _safe_name(archive: Path, name: str) -> PurePosixPath:
    """A member's path, certainly below the folder it is unpacked into."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise UserError(f"{archive}: member {name!r} leads outside its folder; refused")
    return path


def _members(archive: Path, limit: int) -> Iterator[tuple[str, IO[bytes] | None]]:
    """(name, content) of each file and (name, None) of each folder; anything else is refused."""
    return _zip_members(archive) if archive.name.lower().endswith(".zip") else _tar_members(archive, limit)


def _zip_members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise UserError(f"{archive}: member {member.filename!r} is a link or a device; refused")
            if member.flag_bits & 1:
                raise UserError(
                    f"{archive}: member {member.filename!r} is encrypted; unpack it yourself and name the folder"
                )
            if member.is_dir():
                yield member.filename, None
            else:
                with opened.open(member) as stream:
                    yield member.filename, stream


def _tar_members(archive: Path, limit: int) -> Iterator[tuple[str, IO[bytes] | None]]:
    with _tar_bytes(archive, limit) as stream, tarfile.open(fileobj=stream, mode="r|") as opened:
        for member in opened:
            if member.isdir():
                yield member.name, None
            elif member.isreg():
                content = opened.extractfile(member)
                assert content is not None, "a regular member has content"
                yield member.name, content
            else:
                raise UserError(f"{archive}: member {member.name!r} is a link or a device; refused")


@contextmanager
def _tar_bytes(archive: Path, limit: int) -> Iterator[io.BufferedIOBase]:
    """The bytes of a tar, unzipped where needed, bounded even where only headers swell."""
    with archive.open("rb") as file:
        if archive.name.lower().endswith("gz"):
            with gzip.open(file) as unzipped:
                yield _Bounded(unzipped, archive, 2 * limit)  # headers and padding beside the content
        else:
            yield file


class _Bounded(io.BufferedIOBase):
    """A stream that refuses to give more than `limit` bytes in all."""

    def __init__(self, stream: gzip.GzipFile, archive: Path, limit: int) -> None:
        self._stream, self._archive, self._left, self._limit = stream, archive, limit, limit

    def read(self, size: int | None = -1, /) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise UserError(f"{self._archive}: unpacks to more than {self._limit:,} bytes; refused as a bomb")
        return data
