"""Archives: what comes out is what went in, and nothing gets out of its folder."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

from partwise.config import UserError
from partwise.data.archives import is_archive, unpack

FILES = {"a.txt": b"one", "deep/er/b.bin": bytes(range(256)) * 40, "deep/empty": b""}


def make_tar(path: Path, members: list[tarfile.TarInfo] | None = None, *, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in members or ():
            archive.addfile(info, io.BytesIO(b"x" * info.size))
    return path


def make_zip(path: Path, extra: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (FILES | (extra or {})).items():
            archive.writestr(name, data)
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = 4 if kind == tarfile.REGTYPE else 0
    return info


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.tgz", "x.zip", "X.TAR"])
def test_out_comes_what_went_in(name: str, tmp_path: Path, cache: Path) -> None:
    path = tmp_path / name
    if name.endswith("zip"):
        make_zip(path)
    else:
        make_tar(path, mode="w:gz" if "gz" in name else "w")
    assert is_archive(path)
    folder = unpack(path, cache=cache)
    assert content(folder) == FILES
    assert folder.parent == cache and list(cache.iterdir()) == [folder]


def test_unpacking_again_does_nothing_and_a_changed_archive_is_another(tmp_path: Path, cache: Path) -> None:
    first = unpack(make_zip(tmp_path / "x.zip"), cache=cache)
    (first / "a.txt").write_bytes(b"mine")
    assert unpack(tmp_path / "x.zip", cache=cache) == first
    assert (first / "a.txt").read_bytes() == b"mine"
    copy = tmp_path / "elsewhere" / "x.zip"
    copy.parent.mkdir()
    copy.write_bytes((tmp_path / "x.zip").read_bytes())
    assert unpack(copy, cache=cache) == first
    assert unpack(make_zip(tmp_path / "x.zip", {"more": b"!"}), cache=cache) != first


@pytest.mark.parametrize(
    "bad",
    [
        member("../out"),
        member("deep/../../out"),
        member("/absolute"),
        member("link", tarfile.SYMTYPE, "/etc/passwd"),
        member("link", tarfile.LNKTYPE, "a.txt"),
        member("device", tarfile.CHRTYPE),
        member("pipe", tarfile.FIFOTYPE),
        member("back\\..\\slash"),
    ],
    ids=lambda info: f"{info.name}-{info.type.decode()}",
)
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_hostile_members_of_a_tar_are_refused(bad: tarfile.TarInfo, mode: str, tmp_path: Path, cache: Path) -> None:
    path = make_tar(tmp_path / ("x.tar" if mode == "w" else "x.tar.gz"), [bad], mode=mode)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="refused") as caught:
        unpack(path, cache=cache)
    assert repr(bad.name) in str(caught.value) and str(path) in str(caught.value)
    assert sorted(p for p in tmp_path.rglob("*") if p != cache) == before
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("name", ["../out", "/absolute", "deep/../../out"])
def test_hostile_members_of_a_zip_are_refused(name: str, tmp_path: Path, cache: Path) -> None:
    with pytest.raises(UserError, match="leads outside"):
        unpack(make_zip(tmp_path / "x.zip", {name: b"!"}), cache=cache)
    assert not (tmp_path / "out").exists() and list(cache.iterdir()) == []


def test_a_link_in_a_zip_is_refused(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(UserError, match="link"):
        unpack(path, cache=cache)


def test_bombs_are_refused(tmp_path: Path, cache: Path) -> None:
    zeros = bytes(3_000_000)
    zipped = make_zip(tmp_path / "x.zip", {"zeros": zeros})
    assert zipped.stat().st_size < 10_000
    info = tarfile.TarInfo("zeros")
    info.size = len(zeros)
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        archive.addfile(info, io.BytesIO(zeros))
    for path in (zipped, tmp_path / "x.tar.gz"):
        with pytest.raises(UserError, match="1,000,000 bytes; refused as a bomb"):
            unpack(path, cache=cache, limit=1_000_000)
        assert list(cache.iterdir()) == []
        assert unpack(path, cache=cache, limit=4_000_000).is_dir()
        for folder in cache.iterdir():
            for file in folder.rglob("*"):
                if file.is_file():
                    file.unlink()
            folder.rename(tmp_path / f"done{path.suffix}")


def test_a_zip_that_lies_about_its_sizes_is_refused(tmp_path: Path, cache: Path) -> None:
    path = make_zip(tmp_path / "x.zip", {"zeros": bytes(3_000_000)})
    data = path.read_bytes().replace((3_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    path.write_bytes(data)
    with pytest.raises(UserError):
        unpack(path, cache=cache, limit=1_000_000)
    assert list(cache.iterdir()) == []


def test_swelling_headers_are_refused(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "x.tar.gz"
    with gzip.open(path, "wb") as file:
        for number in range(4000):
            file.write(tarfile.TarInfo(f"d{number}/").tobuf())
    with pytest.raises(UserError, match="bomb"):
        unpack(path, cache=cache, limit=100_000)


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.zip"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_half_an_archive_is_refused(name: str, share: float, tmp_path: Path, cache: Path) -> None:
    path = tmp_path / name
    if name.endswith("zip"):
        make_zip(path)
    else:
        make_tar(path, mode="w:gz" if "gz" in name else "w")
    data = path.read_bytes()
    end = int(len(data) * share) if name != "x.tar" else int(12_000 * share)  # a tar ends in ten kilobytes of nothing
    path.write_bytes(data[:end])
    with pytest.raises(UserError, match="cannot be unpacked"):
        unpack(path, cache=cache)
    assert list(cache.iterdir()) == []


def test_many_at_once_leave_one_folder(tmp_path: Path, cache: Path) -> None:
    path = make_tar(tmp_path / "x.tar")
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(unpack(path, cache=cache))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and len(found) == 6
    assert list(cache.iterdir()) == [found[0]] and content(found[0]) == FILES


def test_the_cache_is_the_users_or_beside_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_zip(tmp_path / "x.zip")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    assert unpack(path).parent == tmp_path / "own" / "partwise" / "archives"
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the cache should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert unpack(path).parent == tmp_path / ".partwise-cache"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_archive(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "x.zip")
    path.chmod(0)
    with pytest.raises(UserError, match="cannot be read"):
        unpack(path)


def test_a_missing_archive(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        unpack(tmp_path / "x.zip")
