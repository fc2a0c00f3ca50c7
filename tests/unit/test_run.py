"""The run folder: one writer at a time, nothing half written, nothing removed that is not ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from partwise import run as run_module
from partwise.config import UserError
from partwise.run import RunFolder, to_json, write_atomically

HOLD = textwrap.dedent(
    """
    import sys
    from partwise.run import RunFolder
    with RunFolder(sys.argv[1]).lock():
        print("held", flush=True)
        sys.stdin.read()
    """
)


def holder(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds the folder's lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- lock ----------------------------------------------------------------------------------------------------------------


def test_a_second_process_is_refused_until_the_first_dies(tmp_path: Path) -> None:
    process = holder(tmp_path / "run")
    try:
        with (
            pytest.raises(UserError, match=rf"another process \(number {process.pid}\)"),
            RunFolder(tmp_path / "run").lock(),
        ):
            raise AssertionError("two processes in one folder")
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert (tmp_path / "run" / ".lock").read_text() == f"{process.pid}\n"  # stale
    with RunFolder(tmp_path / "run").lock():
        assert (tmp_path / "run" / ".lock").read_text() == f"{os.getpid()}\n"


def test_the_lock_ends_with_its_block_also_by_an_error(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(ZeroDivisionError), folder.lock():
        _ = 1 / 0
    with folder.lock():
        pass


def test_the_lock_says_where_it_cannot_be_taken(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match=r"--out .*file.*: cannot write there"), RunFolder(path).lock():
            pass
    assert (tmp_path / "file").read_text() == "mine"


# -- atomic writes -------------------------------------------------------------------------------------------------------


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary.json"
    write_atomically(path, b"old")

    def fail(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_module.os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new and longer")
    assert contents(tmp_path) == {"summary.json": b"old"}  # and no temporary file


def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    """The kill comes after the bytes are there and before the rename."""
    path = tmp_path / "summary.json"
    write_atomically(path, b"old")
    program = (
        "import os, sys, signal; from pathlib import Path; from partwise import run\n"
        "run.os.fsync = lambda number: os.kill(os.getpid(), signal.SIGKILL)\n"
        "run.write_atomically(Path(sys.argv[1]), b'new' * 1000)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    write_atomically(path, b"newer")
    assert path.read_bytes() == b"newer"


def test_what_a_killed_writer_left_is_swept_up(tmp_path: Path) -> None:
    program = (
        "import os, sys, signal; from pathlib import Path; from partwise import run\n"
        "run.os.fsync = lambda number: os.kill(os.getpid(), signal.SIGKILL)\n"
        "run.write_atomically(run.RunFolder(sys.argv[1]).checkpoints / 'last.safetensors', b'new' * 1000)"
    )
    write_atomically(tmp_path / "checkpoints" / "last.safetensors", b"old")
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert len(contents(tmp_path)) == 2
    with RunFolder(tmp_path).lock():
        assert set(contents(tmp_path)) == {"checkpoints/last.safetensors", ".lock"}
        assert (tmp_path / "checkpoints" / "last.safetensors").read_bytes() == b"old"


def test_files_are_readable_by_others_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a" / "b.txt", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "a" / "b.txt").stat().st_mode & 0o777 == 0o640


def test_json_is_plain() -> None:
    values = {"nan": float("nan"), "infinite": [float("inf")], "path": Path("a/b"), "pair": (1, "ä"), 3: None}
    written = to_json(values)
    assert json.loads(written, parse_constant=pytest.fail) == {
        "nan": None,
        "infinite": [None],
        "path": "a/b",
        "pair": [1, "ä"],
        "3": None,
    }
    assert "ä".encode() in written and written.endswith(b"\n")


# -- what is in the folder -----------------------------------------------------------------------------------------------


def test_status_of_a_run_in_its_life(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert not folder.exists() and folder.status() == "new"
    write_atomically(folder.recipe, b"recipe: cutmix/smoke\n")
    assert folder.exists() and folder.status() == "running" and folder.read_summary() == {}
    folder.write_summary({"status": "finished", "metrics": {"classification/top1": 0.5}})
    assert folder.status() == "finished"


@pytest.mark.parametrize("torn", [b'{"status": "finis', b"", b"[1, 2]", b"\xff\xfe{}", b"null", b'{"a": 1}}'])
def test_a_torn_summary_is_named(torn: bytes, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.recipe.write_text("recipe: cutmix/smoke\n")
    folder.summary.write_bytes(torn)
    with pytest.raises(UserError, match=r"summary\.json: ") as caught:
        folder.status()
    assert "\n" not in str(caught.value)


def test_metric_lines_and_a_torn_last_one(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.read_metrics() == [] and folder.metrics_size() == 0
    for step in range(3):
        folder.append_metrics({"kind": "step", "step": step, "loss": float("nan") if step == 1 else 0.5})
    whole = folder.metrics_size()
    with folder.metrics.open("ab") as file:
        file.write(b'{"kind": "step", "ste')
    assert [line["step"] for line in folder.read_metrics()] == [0, 1, 2]
    folder.cut_metrics(whole)
    folder.append_metrics({"kind": "step", "step": 3})
    assert [line["step"] for line in folder.read_metrics()] == [0, 1, 2, 3]
    assert folder.read_metrics()[1]["loss"] is None


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 10**9), max_size=6), st.data())
def test_cutting_back_keeps_exactly_the_lines_before(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], data: st.DataObject
) -> None:
    folder = RunFolder(tmp_path_factory.mktemp("metrics"))
    sizes = [0]
    for step in steps:
        folder.append_metrics({"step": step})
        sizes.append(folder.metrics_size())
    kept = data.draw(st.integers(0, len(steps)))
    folder.cut_metrics(sizes[kept])
    assert [line["step"] for line in folder.read_metrics()] == steps[:kept]
    folder.cut_metrics(sizes[-1])  # a file shorter than the mark is left as it is
    assert folder.metrics_size() == sizes[kept]


def test_changes_are_plain_yaml(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_changes({"optim.lr": (0.1, 0.2), "optim.milestones": ((0.5,), ()), "model.weights": (None, "a.pth")})
    assert yaml.safe_load(folder.changes.read_text()) == {
        "optim.lr": {"recipe": 0.1, "here": 0.2},
        "optim.milestones": {"recipe": [0.5], "here": []},
        "model.weights": {"recipe": None, "here": "a.pth"},
    }


def test_pictures_come_back_in_their_order(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_picture("b", b"PNG b", title="B", caption="later", order=20)
    folder.write_picture("c", b"PNG c", title="C", caption="ä", order=10, rows=[{"x": 1}, {"x": 2, "y": "a,b"}])
    folder.write_picture("a", b"PNG a", title="A", caption="", order=20)
    found = folder.read_pictures()
    assert [(p.name, p.title, p.order) for p in found] == [("c", "C", 10), ("a", "A", 20), ("b", "B", 20)]
    assert [p.csv and p.csv.read_text().split() for p in found] == [["x,y", "1,", '2,"a,b"'], None, None]
    assert found[0].png.read_bytes() == b"PNG c" and found[0].caption == "ä"
    (folder.pictures / "alone.png").write_bytes(b"PNG")  # without words: shown last, under its name
    assert folder.read_pictures()[-1].title == "alone"


def test_a_picture_that_is_drawn_again_has_no_old_numbers(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_picture("a", b"1", title="A", caption="", order=1, rows=[{"x": 1}])
    folder.write_picture("a", b"2", title="A", caption="", order=1)
    assert folder.read_pictures()[0].csv is None


# -- --fresh -------------------------------------------------------------------------------------------------------------


def finished(path: Path) -> RunFolder:
    """A folder with everything that a run writes, made by the folder's own writers."""
    folder = RunFolder(path)
    with folder.lock():
        write_atomically(folder.recipe, b"recipe: cutmix/smoke\n")
        folder.write_changes({})
        folder.write_environment({"threads": 1})
        folder.append_metrics({"step": 1})
        folder.write_summary({"status": "finished"})
        folder.write_picture("confusion", b"PNG", title="", caption="", order=1, rows=[{"a": 1}])
        for own in (
            folder.model,
            folder.report,
            path / "batch.safetensors",
            folder.checkpoints / "last.safetensors",
            folder.checkpoints / "best.safetensors",
            folder.products / "train" / "networks.safetensors",
            folder.products / "train" / "index.json",
        ):
            write_atomically(own, b"x")
    return folder


def test_clear_removes_a_whole_run(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    folder.clear()
    assert set(contents(tmp_path)) == {".lock"}  # the lock is held while a run is cleared
    assert not folder.exists() and folder.status() == "new"
    folder.clear()  # nothing to do


def test_clear_leaves_what_is_not_ours(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    mine = {
        "notes.txt": b"1",
        "data/cat.jpg": b"2",
        "pictures/holiday.jpg": b"3",
        "pictures/2024/holiday.png": b"4",
        "checkpoints/notes.md": b"5",
    }
    for name, data in mine.items():
        write_atomically(tmp_path / name, data)
    folder.clear()
    assert contents(tmp_path) == mine | {".lock": contents(tmp_path)[".lock"]}


def test_clear_touches_no_folder_that_is_no_run(tmp_path: Path) -> None:
    mine = {"pictures/a.png": b"1", "pictures/a.csv": b"2", "products/b/index.json": b"3", "report.html": b"4"}
    for name, data in mine.items():
        write_atomically(tmp_path / name, data)
    RunFolder(tmp_path).clear()
    assert contents(tmp_path) == mine


def test_clear_follows_no_link(tmp_path: Path) -> None:
    write_atomically(tmp_path / "elsewhere" / "a.png", b"1")
    write_atomically(tmp_path / "elsewhere" / "train" / "index.json", b"2")
    folder = finished(tmp_path / "run")
    (folder.path / "linked").symlink_to(tmp_path / "elsewhere")
    (folder.products / "linked").symlink_to(tmp_path / "elsewhere")
    (folder.pictures / "linked.png").symlink_to(tmp_path / "elsewhere" / "a.png")
    before = contents(tmp_path / "elsewhere")
    folder.clear()
    assert contents(tmp_path / "elsewhere") == before

    folder = finished(tmp_path / "other")
    for path in folder.pictures.iterdir():
        path.unlink()
    folder.pictures.rmdir()
    folder.pictures.symlink_to(tmp_path / "elsewhere")
    folder.clear()
    assert contents(tmp_path / "elsewhere") == before


def test_a_clear_that_was_cut_short_is_still_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe goes last: else an old checkpoint would be taken up by the next run in this folder."""
    folder = finished(tmp_path)
    removed: list[str] = []
    unlink = Path.unlink

    def watched(path: Path, missing_ok: bool = False) -> None:
        removed.append(path.relative_to(tmp_path).as_posix())
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", watched)
    folder.clear()
    assert removed[-1] == "recipe.yaml"
    assert "checkpoints/last.safetensors" in removed[:-1]
