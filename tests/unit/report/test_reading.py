from collections.abc import Callable
from pathlib import Path

import pytest

from partwise.config import UserError
from partwise.report.reading import comparable, flatten, read_run, read_table, stage_rows, status_of

MakeRun = Callable[..., Path]


def test_a_run_is_read_whole(make_run: MakeRun) -> None:
    run = read_run(make_run(seed=3, changes={"optim.lr": (0.1, 0.4)}))
    assert (run.name, run.seed, run.data, run.status, run.problems) == ("cutmix/demo", 3, "creatures:", "finished", [])
    assert run.changes == {"optim.lr": ("0.1", "0.4")}
    assert run.environment["device.type"] == "cpu"
    assert [(p.title, p.width, p.height) for p in run.pictures] == [("Title 0", 12, 8), ("Title 1", 12, 8)]
    assert run.pictures[0].numbers is not None and run.pictures[0].numbers.rows == [["test/0", "0.1235"]]


def test_what_is_no_run_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        read_run(tmp_path / "nothing")
    with pytest.raises(UserError, match="neither recipe"):
        read_run(tmp_path)


def test_torn_files_are_listed_and_left_out(make_run: MakeRun) -> None:
    path = make_run(logged=True)
    (path / "summary.json").write_text('{"metrics": {')
    (path / "environment.json").write_bytes(b"\xff\xfe\x00")
    (path / "changes.yaml").write_text("a: [1,")
    (path / "recipe.yaml").write_text("- not\n- fields\n")
    (path / "pictures" / "z9.png").write_bytes(b"half a picture")
    with (path / "metrics.jsonl").open("a") as file:
        file.write('5\n{"kind": "step", "ste')
    run = read_run(path)
    assert len(run.problems) == 5
    assert run.metrics == {} and run.changes == {} and run.environment == {} and run.name == "run"
    assert run.recipe_text == "- not\n- fields\n"
    assert [picture.title for picture in run.pictures] == ["Title 1"]
    assert len(run.lines) == 7 and run.status == "running"


def test_yaml_is_never_executed(make_run: MakeRun, tmp_path: Path) -> None:
    path = make_run()
    mark = tmp_path / "mark"
    (path / "changes.yaml").write_text(
        f"a: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{mark}]]\n"
    )
    assert len(read_run(path).problems) == 1 and not mark.exists()


@pytest.mark.parametrize(
    ("summary", "word", "tone"),
    [
        ({"status": "finished"}, "finished", "good"),
        ({"status": "running"}, "unfinished", "busy"),
        ({"status": "stopped"}, "stopped", "bad"),
        ({"status": "failed", "error": "loss is not finite at step 7"}, "failed", "bad"),
    ],
)
def test_states(make_run: MakeRun, summary: dict, word: str, tone: str) -> None:
    status = status_of(read_run(make_run(**summary)))
    assert (status.word, status.tone) == (word, tone)
    assert bool(status.sentence) == (word != "finished")
    assert summary.get("error", "") in status.sentence


def test_claims_count_for_their_own_recipe(make_run: MakeRun) -> None:
    own, other, bare = {"metric": "m", "recipe": "cutmix/demo"}, {"metric": "m", "recipe": "x"}, {"metric": "m"}
    run = read_run(make_run(paper=[own, other, bare, "text", {"value": 1}]))
    assert run.claims == [own, other, bare]
    assert [comparable(claim, run) for claim in run.claims] == [True, False, True]


def test_tables_are_cut_and_ragged_rows_mended(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,y\n1,0.123456789\n2\n3,4,5\n" + "6,7\n" * 10)
    table = read_table(path, most=4)
    assert table.rows == [["1", "0.1235"], ["2", ""], ["3", "4"], ["6", "7"]] and table.left_out == 9
    path.write_text("")
    assert read_table(path).header == []


def test_odd_shapes_in_json_do_no_harm() -> None:
    assert stage_rows({"stages": "none"}) == [] and stage_rows({"stages": [1, {"name": "a"}]}) == [["a", "–", "–", "–"]]
    assert stage_rows({}) == [] and flatten({"a": {"b": {}}, "c": [1]}) == {"a.b": "none", "c": "1"}
