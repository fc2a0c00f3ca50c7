"""Recipes: validated models <-> YAML, `--set`, and answers to typos. Never imports torch.

A recipe is one frozen pydantic model with the sections `data`, `model`, `optim`, `train`, `evaluate` and `method`. A method
subclasses `Recipe` to give `method` its own fields. `recipe` names the published setting that it is, or started from.
"""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError, field_validator

JSON = str | int | float | bool | None | list[int | float | str]


class UserError(ValueError):
    """A mistake of the user's. The message says what, where, what was expected and the nearest valid answer."""


def nearest(value: str, choices: Iterable[str]) -> str | None:
    """The valid name closest to a mistyped one, or None where nothing is close."""
    names = list(choices)
    lowered = {name.lower(): name for name in names}
    if value.lower() in lowered:
        return lowered[value.lower()]
    matches = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
    return matches[0] if matches else None


def did_you_mean(value: str, choices: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` or nothing, ready to end a message."""
    match = nearest(value, choices)
    return f"; did you mean {match!r}?" if match else ""


class Section(BaseModel):
    """A group of fields: frozen, nothing unknown admitted."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class AugmentFields(Section):
    """Random geometry and colour of training pictures, drawn once a sample and applied to picture, mask and boxes."""

    crop: Literal["none", "pad", "resized", "random", "scaled"] = Field(
        "pad",
        description="pad: shift within a border; resized: random share and ratio; random: a random window of the frame; "
        "scaled: the longer side brought to a random length, then a random window, with a border where it is larger",
    )
    padding: int = Field(4, ge=0, description="border of crop=pad, pixels")
    scale: tuple[float, float] = Field((0.08, 1.0), description="area share of crop=resized")
    ratio: tuple[float, float] = Field((0.75, 4 / 3), description="aspect ratio of crop=resized")
    long_side: tuple[int, int] = Field((320, 640), description="longer side of crop=scaled, pixels, drawn evenly")
    border: tuple[int, int, int] = Field(
        (0, 0, 0), description="colour of the border, red, green and blue from 0 to 255; masks are void there"
    )
    flip: bool = Field(True, description="mirror left-right with probability 0.5")
    jitter: float = Field(
        0.0, ge=0, lt=1, description="brightness, contrast and saturation each times 1 +- this, in random order"
    )
    lighting: float = Field(0.0, ge=0, description="standard deviation of noise along ImageNet's principal colours")

    @field_validator("scale", "ratio", "long_side")
    @classmethod
    def _in_order(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError("expected two numbers above 0, the smaller one first")
        return value

    @field_validator("border")
    @classmethod
    def _bytes(cls, value: tuple[int, int, int]) -> tuple[int, int, int]:
        if not all(0 <= part <= 255 for part in value):
            raise ValueError("expected three numbers from 0 to 255")
        return value


class DataFields(Section):
    """Which pictures, how they are split, and the frame that the network sees."""

    source: str = Field(description="kind:PATH?key=value, as in `partwise data`")
    size: int = Field(32, ge=8, description="side of the square that the network sees, pixels")
    resize: int | None = Field(None, ge=8, description="side before the crop; None: the same as `size`")
    keep_aspect: bool = Field(
        False, description="resize the short side and crop the centre, instead of squashing to a square"
    )
    validation: float = Field(
        0.1, ge=0, lt=1, description="share of the training part held out, where the source has no validation split"
    )
    test: float = Field(
        0.2, gt=0, lt=1, description="share held out for the report, where the source has no test split"
    )
    train_limit: int | None = Field(
        None, ge=1, description="use only this many training pictures, chosen by seed, balanced by class"
    )
    split_seed: int = Field(
        0, description="seed of the splits; apart from train.seed, so that seeds share their splits"
    )
    folds: int = Field(0, ge=0, description="cross-validation: number of folds; 0: the source's own split")
    fold: int = Field(
        0, ge=0, description="which fold is left out: the test split, or `val` where the source has its own test split"
    )
    on_fault: Literal["stop", "skip"] = Field(
        "stop", description="a picture that cannot be read: stop, or set it aside and count it"
    )
    storage: Literal["auto", "resident", "streamed"] = Field(
        "auto",
        description="resident: all pictures as uint8 on the device; auto: resident up to 2 GiB, where all are one size",
    )
    threads: int = Field(0, ge=0, description="threads that decode; 0: one a core")
    augment: AugmentFields = AugmentFields()


class ModelFields(Section):
    """The network."""

    backbone: str = Field("resnet20", description="a name of partwise.models.backbones, or any timm name")
    weights: str | None = Field(
        None, description="a local .safetensors or .pth file to start from; None: random weights"
    )
    arguments: dict[str, JSON] = Field(default_factory=dict, description="handed to the backbone's builder")
    dropout: float = Field(0.0, ge=0, lt=1, description="before the classifier")
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.229, 0.224, 0.225)


class OptimFields(Section):
    """The optimiser and its schedule, a pure function of the step over the whole phase."""

    name: Literal["sgd", "adamw", "adam"] = "sgd"
    lr: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD's momentum, or Adam's first beta")
    nesterov: bool = True
    beta2: float = Field(0.999, ge=0, lt=1, description="Adam's second beta")
    weight_decay: float = Field(1e-4, ge=0)
    final_weight_decay: float | None = Field(
        None, ge=0, description="weight decay at the end of the phase, by half a cosine; None: the same throughout"
    )
    decay_norm_and_bias: bool = Field(True, description="weight decay on norms and biases too, as the CutMix code does")
    head_lr: float = Field(1.0, gt=0, description="the classifier's rate as a multiple of `lr`")
    schedule: Literal["constant", "steps", "cosine", "one_cycle", "poly"] = "cosine"
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the phase with a linear rise from zero")
    milestones: tuple[float, ...] = Field(
        (0.5, 0.75), description="shares of the phase after which schedule=steps drops"
    )
    gamma: float = Field(0.1, gt=0, le=1, description="factor of each drop")
    power: float = Field(0.9, gt=0, description="exponent of schedule=poly")
    peak: float = Field(0.3, gt=0, lt=1, description="share of the phase at which schedule=one_cycle is highest")
    final: float = Field(0.0, ge=0, lt=1, description="rate at the end as a share of `lr` (cosine, one_cycle, poly)")
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the whole gradient")


class TrainFields(Section):
    """How long, how, and with what arithmetic."""

    seed: int = Field(0, ge=0)
    epochs: float = Field(10.0, gt=0)
    batch_size: int = Field(
        128, ge=1, description="pictures an optimiser step, over all processes and accumulated parts"
    )
    accumulate: int = Field(1, ge=1, description="parts that one step's batch is computed in")
    precision: Literal["auto", "fp64", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 where the device computes it fast, else fp32"
    )
    channels_last: bool = True
    compile: bool = Field(False, description="torch.compile the network; needs a compiler")
    ema: float | None = Field(
        None, gt=0, lt=1, description="decay of an exponential moving average of the weights; None: no average"
    )
    threads: int = Field(0, ge=0, description="threads of torch on a CPU; 0: torch's own choice")
    log_every: int = Field(50, ge=1, description="steps between lines of metrics.jsonl")
    checkpoint_seconds: float = Field(60.0, ge=0, description="seconds between checkpoints")
    tensorboard: bool = Field(False, description="mirror metrics to RUN/tensorboard (extra: tensorboard)")


class EvaluateFields(Section):
    """What is measured, and when."""

    suites: tuple[str, ...] = ("classification",)
    every: float = Field(
        1.0, ge=0, description="epochs between evaluations on the validation split; 0: only at the end"
    )
    during: tuple[str, ...] = Field(("classification",), description="suites of the evaluations on schedule")
    best_by: str = Field("classification/top1", description="validation metric by which the best checkpoint is kept")
    batch_size: int = Field(256, ge=1)
    foreign: tuple[str, ...] = Field(
        (),
        description="sources of pictures of no class of the run's, for suite ood; `--foreign` of `partwise evaluate`",
    )
    foreign_quality: int | None = Field(
        None,
        ge=1,
        le=100,
        description="JPEG quality that foreign pictures go through first, where the training pictures did; None: as they are",
    )
    box_convention: Literal["continuous", "wsol"] = Field(
        "continuous", description="wsol: inclusive pixels, as the reference code of MaxBoxAcc"
    )


class Recipe(Section):
    """A complete description of a run; a method gives `method` its own fields."""

    recipe: str = Field(description="the named recipe that this is, or started from")
    data: DataFields
    model: ModelFields = ModelFields()
    optim: OptimFields = OptimFields()
    train: TrainFields = TrainFields()
    evaluate: EvaluateFields = EvaluateFields()
    method: Section = Section()

    @property
    def method_name(self) -> str:
        """The part of the recipe's name before the slash."""
        return self.recipe.split("/")[0]


RecipeT = TypeVar("RecipeT", bound=Recipe)


@dataclass(frozen=True)
class Claim:
    """One number of a paper: `metric` as in METRICS.md, `value` a share, `table` where it stands, `recipe` the setting."""

    metric: str
    data: str
    value: float
    table: str
    recipe: str
    note: str = ""


@dataclass(frozen=True)
class Paper:
    """The publication of a method, with the numbers that its recipes are compared with."""

    title: str
    year: int
    link: str
    claims: tuple[Claim, ...] = ()


def describe(error: ValidationError, where: str) -> UserError:
    """pydantic's first complaint as one line: the field, the value, what was expected."""
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    if first["type"] == "missing":
        return UserError(f"{where}: {'.'.join(path)} is missing")
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if first["type"] == "model_type":
        message = "expected a mapping of its fields"
    elif first["type"] == "literal_error":
        message += did_you_mean(str(first["input"]), re.findall(r"'([^']*)'", first.get("ctx", {})["expected"]))
    elif path[:2] == ["model", "arguments"] and len(path) > 3:  # pydantic adds the kind of value that it tried
        path = path[:3]
        message = "expected a number, text, true, false, null or a list of numbers"
    return UserError(f"{where}: {'.'.join(path)} = {first['input']!r}: {message}")


def _fields_below(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Every dotted field name of a model -> its annotation, constraints included; sections are descended into."""
    found: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        annotation = info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found.update(_fields_below(annotation, f"{prefix}{name}."))
        else:
            found[f"{prefix}{name}"] = Annotated[annotation, *info.metadata] if info.metadata else annotation
    return found


def check_names(model: type[BaseModel], values: Mapping[str, object], where: str, prefix: str = "") -> None:
    """Raise UserError for the first name in nested `values` that `model` does not have, with the nearest one it has."""
    for name, value in values.items():
        if name not in model.model_fields:
            known = _fields_below(model, prefix)
            everywhere = {field.rsplit(".", 1)[-1]: field for field in known}
            answer = did_you_mean(f"{prefix}{name}", [*known, *(f"{prefix}{n}" for n in model.model_fields)])
            if name in everywhere and not answer:
                answer = f"; did you mean {everywhere[name]!r}?"
            raise UserError(f"{where}: there is no field {prefix}{name!s}{answer}")
        annotation = model.model_fields[name].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel) and isinstance(value, Mapping):
            check_names(annotation, value, where, f"{prefix}{name}.")


def build(model: type[RecipeT], values: Mapping[str, object], where: str) -> RecipeT:
    """Validate nested values; every mistake becomes a UserError that names `where` and the field."""
    check_names(model, values, where)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise describe(error, where) from None


def parse_value(annotation: object, text: str) -> object:
    """The right side of `--set a.b=c` for a field of this type: `1e-4`, `null`, `[0.5, 0.75]`, `{depth: 3}`, `0.5,0.75`.

    Text stays text where the type is a number or a name: pydantic reads it by the type, and `none` may be a name.
    """
    while typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    if text.lower() in ("null", "none") and type(None) in typing.get_args(annotation):
        return None
    others = [choice for choice in typing.get_args(annotation) if choice is not type(None)]
    if type(None) in typing.get_args(annotation) and len(others) == 1:
        annotation = others[0]
    origin = typing.get_origin(annotation)
    if origin not in (tuple, list, dict):
        return text
    value = _plain(text)
    if origin is dict:
        return value
    if isinstance(value, str) and "," in value:
        return [part.strip() for part in value.split(",")]
    return [value] if isinstance(value, (int, float, str)) else value


def _plain(text: str) -> object:
    """Text as YAML reads it, and `1e-4` as the number that people mean; text again where it is no YAML."""
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # ValueError: what looks like a date and is none
        return text
    if "'" in text or '"' in text:  # what is quoted is meant as text
        return value
    return [_number(inner) for inner in value] if isinstance(value, list) else _number(value)


def _number(value: object) -> object:
    """`1e-4`, which YAML reads as text, as a number; everything else as it is."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def split_setting(setting: str) -> tuple[str, str]:
    """`"a.b=c"` -> `("a.b", "c")`."""
    name, equals, value = setting.partition("=")
    if not equals or not name.strip():
        raise UserError(f"--set {setting}: expected FIELD=VALUE, as in --set train.epochs=20")
    return name.strip(), value.strip()


def override(recipe: RecipeT, settings: Iterable[str]) -> RecipeT:
    """The recipe with `a.b=c` settings applied, each parsed by the type of its field.

    Raises UserError for an unknown field (with the nearest) and for a value of the wrong type or range.
    """
    values = recipe.model_dump(mode="python")
    fields = _fields_below(type(recipe))
    for setting in settings:
        name, text = split_setting(setting)
        if name.startswith("model.arguments."):  # the one field that is itself a mapping
            values["model"]["arguments"][name.removeprefix("model.arguments.")] = _plain(text)
            build(type(recipe), values, f"--set {setting}")
            continue
        if name not in fields:
            leaves = {field.rsplit(".", 1)[-1]: field for field in fields}
            match = nearest(name, fields) or (
                leaves.get(name) or leaves.get(nearest(name.rsplit(".", 1)[-1], leaves) or "")
            )
            hint = f"; did you mean {match!r}?" if match else ""
            raise UserError(f"--set {setting}: there is no field {name!r}{hint}")
        target = values
        *path, last = name.split(".")
        for part in path:
            target = target[part]
        target[last] = parse_value(fields[name], text)
        build(type(recipe), values, f"--set {setting}")
    return build(type(recipe), values, "--set")


def check_together(recipe: Recipe) -> None:
    """Raise UserError for fields that do not go together, whichever of them was set."""
    train, data = recipe.train, recipe.data
    if train.batch_size % train.accumulate:
        fitting = max(1, round(train.batch_size / train.accumulate)) * train.accumulate
        raise UserError(
            f"train.accumulate = {train.accumulate}: does not divide train.batch_size = {train.batch_size}; "
            f"the nearest batch size that it divides is {fitting}"
        )
    if data.resize is not None and data.resize < data.size:
        raise UserError(f"data.resize = {data.resize}: below data.size = {data.size}, which is cut from it")
    if data.folds and not (data.folds > 1 and data.fold < data.folds):
        raise UserError(f"data.fold = {data.fold} of data.folds = {data.folds}: expected folds >= 2 and fold below it")


def differences(old: Recipe, new: Recipe) -> dict[str, tuple[object, object]]:
    """Dotted field -> (old value, new value) wherever two recipes differ."""

    def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
        flat: dict[str, object] = {}
        for name, value in values.items():
            if isinstance(value, Mapping) and f"{prefix}{name}" != "model.arguments":
                flat.update(flatten(value, f"{prefix}{name}."))
            else:
                flat[f"{prefix}{name}"] = value
        return flat

    before, after = flatten(old.model_dump(mode="json")), flatten(new.model_dump(mode="json"))
    names = [*before, *(name for name in after if name not in before)]
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


def to_yaml(recipe: Recipe) -> str:
    """The complete recipe as YAML that `read_yaml` reads back without loss."""
    values = recipe.model_dump(mode="json")
    written = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)
    # PyYAML writes these as they are and reads them as line breaks.
    readable = not any(mark in written for mark in "\x85\u2028\u2029\ufeff")
    return written if readable else yaml.safe_dump(values, sort_keys=False, width=120)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file as nested plain values. Raises UserError where it is missing, no mapping, or no plain YAML."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, expected a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = str(error).splitlines()[0]
        raise UserError(f"{path}: is not plain YAML: {line}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a mapping of sections such as data, model, train")
    return values


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values with `changes` laid over `base`; mappings merge, everything else replaces."""
    merged = dict(base)
    for name, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = merge(merged[name], value) if both and name != "arguments" else value
    return merged
