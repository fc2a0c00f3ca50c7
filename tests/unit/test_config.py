"""Recipes as values: YAML without loss, `--set` by the field's type, and answers that name the field and the nearest one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partwise.config import (
    Recipe,
    UserError,
    build,
    check_names,
    differences,
    merge,
    nearest,
    override,
    parse_value,
    read_yaml,
    split_setting,
    to_yaml,
)
from partwise.methods.cutmix.config import CutMixRecipe
from partwise.methods.recipes import all_books, find_recipe, load_recipe

NAMES = [name for book in all_books().values() for name in book.makers]


SMOKE = find_recipe("cutmix/smoke")[0]


# -- YAML ----------------------------------------------------------------------------------------------------------------

shares = st.floats(0.0, 0.99, allow_nan=False)
positive = st.floats(1e-12, 1e12, allow_nan=False)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
plain = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**40), 2**40), st.floats(allow_nan=False, allow_infinity=False), text
)


@st.composite
def recipes(draw: st.DrawFn) -> CutMixRecipe:
    """Any valid recipe: fields of every type, at their edges and beyond what a person would write."""
    values: dict[str, Any] = {
        "recipe": draw(st.sampled_from(NAMES)),
        "data": {
            "source": draw(text),
            "size": draw(st.integers(8, 10**6)),
            "resize": draw(st.none() | st.integers(8, 10**6)),
            "validation": draw(shares),
            "on_fault": draw(st.sampled_from(["stop", "skip"])),
            "augment": {"scale": draw(st.tuples(shares.filter(bool), st.just(1.0))), "flip": draw(st.booleans())},
        },
        "model": {
            "backbone": draw(text),
            "weights": draw(st.none() | text),
            "arguments": draw(st.dictionaries(text, plain, max_size=4)),
            "mean": draw(st.tuples(shares, shares, shares)),
        },
        "optim": {
            "lr": draw(positive),
            "milestones": draw(st.lists(shares, max_size=4).map(tuple)),
            "clip_norm": draw(st.none() | positive),
        },
        "train": {
            "seed": draw(st.integers(0, 2**63)),
            "epochs": draw(positive),
            "ema": draw(st.none() | st.just(0.999)),
        },
        "evaluate": {"suites": draw(st.lists(text, max_size=3).map(tuple)), "every": draw(st.just(0.0) | positive)},
        "method": {"alpha": draw(positive), "mix": draw(st.sampled_from(["none", "cutmix", "mixup"]))},
    }
    return CutMixRecipe.model_validate(values)


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(recipes())
def test_yaml_keeps_everything(recipe: CutMixRecipe) -> None:
    again = build(CutMixRecipe, yaml.safe_load(to_yaml(recipe)), "again")
    assert again == recipe
    assert again.model_dump(mode="python") == recipe.model_dump(mode="python")
    assert to_yaml(again) == to_yaml(recipe)
    assert differences(recipe, again) == {}


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_through_a_file(name: str, tmp_path: Path) -> None:
    recipe, _ = find_recipe(name)
    file = tmp_path / "any name.yaml"
    file.write_text(to_yaml(recipe), encoding="utf-8")
    assert load_recipe(str(file))[0] == recipe


@pytest.mark.parametrize(
    "mark", ["\x85", "\u2028", "\u2029", "\ufeff", "\x00", "\x07", "\r\n", "ä 中", "\U0001f600", "'\": {}"]
)
def test_odd_text_survives(mark: str) -> None:
    recipe = override(SMOKE, [f"data.source=csv:a{mark}b", f"model.arguments.x=a{mark}b"])
    assert build(Recipe, yaml.safe_load(to_yaml(recipe)) | {"method": {}}, "again").data.source == f"csv:a{mark}b"


def test_names_of_the_world_stay_readable() -> None:
    assert "csv:Größe/中.csv" in to_yaml(override(SMOKE, ["data.source=csv:Größe/中.csv"]))


def test_yaml_is_plain_and_in_the_order_of_the_fields() -> None:
    written = to_yaml(SMOKE)
    assert "!!" not in written and "!<" not in written
    assert list(yaml.safe_load(written)) == ["recipe", "data", "model", "optim", "train", "evaluate", "method"]


def test_a_partial_file_changes_only_what_it_names(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("recipe: cutmix/smoke\noptim: {lr: 1e-3}\ndata: {augment: {flip: false}}\n")
    found, _ = load_recipe(str(file))
    assert differences(SMOKE, found) == {"data.augment.flip": (True, False), "optim.lr": (SMOKE.optim.lr, 0.001)}


def test_a_partial_file_replaces_arguments_whole(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("recipe: cutmix/smoke\nmodel: {backbone: cifar-resnet, arguments: {depth: 26}}\n")
    assert load_recipe(str(file))[0].model.arguments == {"depth": 26}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("recipe: !!python/object/apply:os.system ['touch HACKED']\n", "is not plain YAML"),
        ("recipe: !!python/tuple [1]\n", "is not plain YAML"),
        ("recipe: cutmix/smoke\ntrain: {epochs: !mine 3}\n", "is not plain YAML"),
        ("recipe: cutmix/smoke\ntrain: {epochs: 3\n", "is not plain YAML"),
        ("- a\n- b\n", "expected a mapping"),
        ("", "expected a mapping"),
        ("train: {epochs: 3}\n", "recipe is missing"),
        ("recipe: cutmix/smok\n", "did you mean 'cutmix/smoke'?"),
        ("recipe: cutmix/smoke\ntrain: {epoch: 3}\n", "did you mean 'train.epochs'?"),
        ("recipe: cutmix/smoke\ntrian: {epochs: 3}\n", "no field trian; did you mean 'train'?"),
        ("recipe: cutmix/smoke\ntrain: {epochs: many}\n", "train.epochs = 'many'"),
        ("recipe: cutmix/smoke\ntrain: 3\n", "train = 3: expected a mapping of its fields"),
        ("recipe: cutmix/smoke\n3: {epochs: 3}\n", "no field 3"),
    ],
)
def test_a_bad_file_is_refused(content: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text(content)
    with pytest.raises(UserError) as caught:
        load_recipe("bad.yaml")
    assert "bad.yaml" in str(caught.value) or "recipe" in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "HACKED").exists()


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    for path, says in (
        (tmp_path / "absent.yaml", "there is no such file"),
        (tmp_path, "is a folder"),
        (tmp_path / "binary.yaml", "is not plain YAML"),
    ):
        with pytest.raises(UserError, match=says):
            read_yaml(path)


# -- --set ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("optim.lr=1e-4", 1e-4),
        ("optim.lr=.5", 0.5),
        ("train.epochs=3", 3.0),
        ("train.seed=7", 7),
        ("train.seed= 7 ", 7),
        ("train.compile=true", True),
        ("train.channels_last=no", False),
        ("train.channels_last=0", False),
        ("train.ema=0.9", 0.9),
        ("train.ema=null", None),
        ("optim.clip_norm=none", None),
        ("data.resize=40", 40),
        ("data.source=csv:a=b.csv?label=x", "csv:a=b.csv?label=x"),
        ("model.weights=none", None),
        ("model.weights=12", "12"),
        ("model.backbone=true", "true"),
        ("model.mean=0.1,0.2,0.3", (0.1, 0.2, 0.3)),
        ("model.mean=[1e-1, 0.2, .3]", (0.1, 0.2, 0.3)),
        ("optim.milestones=0.5", (0.5,)),
        ("optim.milestones=1e-1,5e-1", (0.1, 0.5)),
        ("optim.milestones=[]", ()),
        ("evaluate.suites=classification,localization", ("classification", "localization")),
        ("evaluate.suites=localization", ("localization",)),
        ("model.arguments={depth: 26, block: basic}", {"depth": 26, "block": "basic"}),
        ("model.arguments={}", {}),
        # words that mean nothing elsewhere are values here
        ("method.mix=none", "none"),
        ("data.augment.crop=none", "none"),
    ],
)
def test_set_by_the_type_of_the_field(setting: str, value: object) -> None:
    found: Any = override(SMOKE, [setting])
    for part in split_setting(setting)[0].split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-4", 1e-4),
        ("-2.5", -2.5),
        ("true", True),
        ("null", None),
        ("basic", "basic"),
        ("1x1", "1x1"),
        ("2020-13-77", "2020-13-77"),
        ("[64, 1e-1]", [64, 0.1]),
        ("'3'", "3"),
        ("{unfinished", "{unfinished"),
    ],
)
def test_set_an_argument_of_the_network(text: str, value: object) -> None:
    arguments = override(SMOKE, ["model.arguments.kept=1", f"model.arguments.x={text}"]).model.arguments
    assert arguments == {"kept": 1, "x": value}
    assert type(arguments["x"]) is type(value)


def test_later_settings_win_and_order_does_not_matter_otherwise() -> None:
    assert override(SMOKE, ["train.seed=1", "train.seed=2"]).train.seed == 2
    a, b = "optim.lr=0.2", "train.epochs=5"
    assert override(SMOKE, [a, b]) == override(SMOKE, [b, a])
    assert override(SMOKE, []) == SMOKE


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("train.epochs", "expected FIELD=VALUE"),
        ("=3", "expected FIELD=VALUE"),
        ("train.epoch=3", "no field 'train.epoch'; did you mean 'train.epochs'?"),
        ("epochs=3", "did you mean 'train.epochs'?"),
        ("optim.learning_rate=3", "no field 'optim.learning_rate'"),
        ("lr=3", "did you mean 'optim.lr'?"),
        ("methd.alpha=3", "did you mean 'method.alpha'?"),
        ("train=3", "no field 'train'"),
        ("train.epochs=many", "train.epochs = 'many': input should be a valid number"),
        ("train.epochs=0", "greater than 0"),
        ("train.epochs=-1", "greater than 0"),
        ("train.seed=1.5", "train.seed = '1.5'"),
        ("train.epochs=inf", "finite number"),
        ("optim.lr=nan", "finite number"),
        ("train.ema=1", "less than 1"),
        ("train.epochs=null", "train.epochs = 'null'"),
        ("train.precision=fp32x", "did you mean 'fp32'?"),
        ("optim.name=SGD", "did you mean 'sgd'?"),
        ("optim.name=rmsprop", "input should be 'sgd', 'adamw' or 'adam'"),
        ("model.mean=0.5", "model.mean"),
        ("model.mean=0.5,0.5,x", "model.mean.2 = 'x'"),
        ("model.std=0,1,1", "model.std.0"),
        ("model.arguments=3", "model.arguments = 3"),
        ("model.arguments.x={a: b}", "model.arguments.x = {'a': 'b'}: expected a number, text, true, false, null or"),
        ("model.arguments.x=2020-01-01", "expected a number, text, true, false, null or a list of numbers"),
        ("data.augment.scale=1,0.1", "data.augment.scale"),
        ("data.augment.ratio=-1,1", "data.augment.ratio"),
    ],
)
def test_a_bad_setting_is_answered(setting: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        override(SMOKE, ["train.seed=3", setting])
    message = str(caught.value)
    assert message.startswith(f"--set {setting}: ")
    assert says in message
    assert "\n" not in message and "Fields" not in message and "pydantic" not in message


@settings(deadline=None, max_examples=40)
@given(st.text(max_size=12))
def test_any_value_is_taken_or_answered(value: str) -> None:
    for field in (
        "train.epochs",
        "train.compile",
        "model.mean",
        "model.arguments",
        "model.arguments.x",
        "model.weights",
    ):
        try:
            override(SMOKE, [f"{field}={value}"])
        except UserError as error:
            assert field in str(error)


def test_parse_value_of_every_shape() -> None:
    assert parse_value(float, "1e-4") == "1e-4"  # pydantic reads it by the field's type
    assert parse_value(tuple[float, ...], "[1") == ["[1"]
    assert parse_value(dict[str, int], "{a: 1}") == {"a": 1}
    assert parse_value(dict[str, int] | None, "{a: 1}") == {"a": 1}
    assert parse_value(dict[str, int] | None, "null") is None
    assert parse_value(str | None, "None") is None
    assert parse_value(str, "None") == "None"


# -- names, differences, merging -----------------------------------------------------------------------------------------


def test_nearest() -> None:
    assert nearest("epoch", ["epochs", "seed"]) == "epochs"
    assert nearest("SEED", ["epochs", "seed"]) == "seed"
    assert nearest("zzz", ["epochs", "seed"]) is None
    assert nearest("x", []) is None


def test_check_names_finds_a_field_by_its_last_name() -> None:
    with pytest.raises(UserError, match=r"file: there is no field batch_size; did you mean 'train\.batch_size'"):
        check_names(CutMixRecipe, {"batch_size": 3}, "file")


def test_missing_fields_are_named() -> None:
    with pytest.raises(UserError, match=r"file: data\.source is missing"):
        build(CutMixRecipe, {"recipe": "cutmix/smoke", "data": {}}, "file")


def test_differences_are_by_field_and_arguments_are_one() -> None:
    new = override(SMOKE, ["train.seed=4", "model.arguments.depth=3"])
    assert differences(SMOKE, new) == {"model.arguments": ({}, {"depth": 3}), "train.seed": (0, 4)}
    assert differences(new, SMOKE) == {"model.arguments": ({"depth": 3}, {}), "train.seed": (4, 0)}
    assert differences(new, new) == {}


def naive_merge(base: Any, changes: Any, name: str = "") -> Any:
    """Flatten both to leaves; a leaf of `changes` removes everything of `base` at, above or below it."""

    def leaves(value: Any, path: tuple[str, ...]) -> dict[tuple[str, ...], Any]:
        if isinstance(value, dict) and value and (not path or path[-1] != "arguments"):
            return {k: v for key, inner in value.items() for k, v in leaves(inner, (*path, key)).items()}
        return {path: value}

    old, new = leaves(base, ()), leaves(changes, ())
    kept = {p: v for p, v in old.items() if not any(p[: len(q)] == q or q[: len(p)] == p for q in new)}
    result: dict[str, Any] = {}
    for path, value in {**kept, **new}.items():
        inner = result
        for part in path[:-1]:
            inner = inner.setdefault(part, {})
        inner[path[-1]] = value
    return result


nested = st.recursive(
    st.integers(0, 3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from("abc"), nested, min_size=1),
    st.dictionaries(st.sampled_from("abc"), nested, min_size=1),
)
def test_merge_is_the_naive_one(base: dict[str, Any], changes: dict[str, Any]) -> None:
    before = yaml.safe_dump([base, changes])
    assert merge(base, changes) == naive_merge(base, changes)
    assert yaml.safe_dump([base, changes]) == before  # neither was changed


def test_merge_replaces_arguments() -> None:
    assert merge({"arguments": {"a": 1}, "x": {"y": 1}}, {"arguments": {"b": 2}, "x": {}}) == {
        "arguments": {"b": 2},
        "x": {"y": 1},
    }


def test_recipes_cannot_be_changed_in_place() -> None:
    recipe = SMOKE
    with pytest.raises(Exception, match="frozen"):
        recipe.train.seed = 3  # type: ignore[misc]  # that is the point
