"""Source strings, `kind:PATH?key=value&...`, and the table from a kind to the class that reads it.

Nothing heavy is imported before a kind is known to exist, so that a typing mistake is answered at once.
"""

from __future__ import annotations

import importlib
import inspect
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from partwise.config import UserError, nearest

if TYPE_CHECKING:
    from partwise.data.sample import Source

READERS = "partwise.data.readers"
WORLDS = "partwise.data.worlds"

SOURCES: Mapping[str, str] = types.MappingProxyType(
    {
        "cifar10": f"{READERS}.cifar:Cifar10",
        "cifar100": f"{READERS}.cifar:Cifar100",
        "imagefolder": f"{READERS}.imagefolder:ImageFolder",
        "images": f"{READERS}.images:Images",
        "csv": f"{READERS}.csv:Csv",
        "tinyimagenet": f"{READERS}.tinyimagenet:TinyImageNet",
        "imagenet": f"{READERS}.imagenet:ImageNet",
        "cub": f"{READERS}.cub:Cub",
        "voc": f"{READERS}.voc:Voc",
        "coco": f"{READERS}.coco:Coco",
        "pets": f"{READERS}.pets:Pets",
        "masks": f"{READERS}.masks:Masks",
        "weizmann": f"{READERS}.weizmann:Weizmann",
        "camvid": f"{READERS}.camvid:Camvid",
        "chromosomes": f"{READERS}.chromosomes:Chromosomes",
        "karyograms": f"{READERS}.karyograms:Karyograms",
        "cxrmasks": f"{READERS}.chest_masks:ChestMasks",
        "chestxray14": f"{READERS}.chestxray14:ChestXray14",
        "chexpert": f"{READERS}.chexpert:CheXpert",
        "jsrt": f"{READERS}.jsrt:Jsrt",
        "montgomery": f"{READERS}.tuberculosis:Montgomery",
        "shenzhen": f"{READERS}.tuberculosis:Shenzhen",
        "vindr": f"{READERS}.vindr:VinDr",
        "vindrribs": f"{READERS}.vindr:VinDrRibs",
        "siim": f"{READERS}.siim:Siim",
        "chestxdet": f"{READERS}.chestxdet:ChestXDet",
        "fundus": f"{READERS}.fundus:Fundus",
        "eyepacs": f"{READERS}.eyepacs:EyePacs",
        "distilled": f"{READERS}.distilled:DistilledPictures",
        "creatures": f"{WORLDS}.creatures:Creatures",
        "karyotypes": f"{WORLDS}.karyotypes:Karyotypes",
        "radiographs": f"{WORLDS}.radiographs:Radiographs",
    }
)
"""Kind -> "module:Class". A class takes a Path first if it reads files; its keyword arguments are the options."""


@dataclass(frozen=True)
class SourceSpec:
    """A source string in its parts; nothing of it is checked but the kind."""

    kind: str
    path: str = ""
    options: Mapping[str, str] = field(default_factory=dict)


def parse_source(text: str) -> SourceSpec:
    """`kind:PATH?key=value&...` -> its parts; values may be percent-encoded. Raises UserError for an unknown kind."""
    before, mark, query = text.rpartition("?")
    if not mark:
        before, query = text, ""
    kind, _, path = before.partition(":")
    # A folder may be called as a kind is: without a colon, and where it is there, it is the folder that is meant.
    folder = ":" not in before and SOURCES.get(kind, "").startswith(READERS) and Path(before).expanduser().exists()
    if kind not in SOURCES or folder:
        raise UserError(f"source {text!r}: {_unknown_kind(kind, before)}")
    options: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        key, equals, value = pair.partition("=")
        if not key or not equals or key in options:
            problem = "given twice" if key in options else "not key=value"
            raise UserError(f"source {text!r}: option {pair!r} is {problem}; expected {kind}:PATH?key=value&key=value")
        options[key] = unquote(value)
    return SourceSpec(kind, path, options)


def open_source(text: str) -> Source:
    """The data set that a source string names. Raises UserError for anything wrong with the string or the files."""
    spec = parse_source(text)
    opener = source_class(spec.kind)
    parameters = dict(inspect.signature(opener).parameters)
    needs_path = "path" in parameters
    parameters.pop("path", None)
    if needs_path and not spec.path:
        raise UserError(f"source {text!r}: no path; expected {spec.kind}:PATH, where PATH is {opener.layout}")
    if spec.path and not needs_path:
        raise UserError(f"source {text!r}: {spec.kind} is generated and takes no path; expected {spec.kind}:?key=value")
    hints = typing.get_type_hints(opener.__init__)
    options = {}
    for key, value in spec.options.items():
        if key not in parameters:
            near = nearest(key, parameters)
            known = f"known: {', '.join(parameters)}" if parameters else f"{spec.kind} has none"
            raise UserError(f"source {text!r}: no option {key!r}; {known}" + (f"; nearest: {near}" if near else ""))
        options[key] = _typed(text, key, value, hints.get(key, str))
    return opener(Path(spec.path).expanduser(), **options) if needs_path else opener(**options)


def source_class(kind: str) -> Any:
    """The class behind a kind of the table, imported now."""
    module, _, name = SOURCES[kind].partition(":")
    return getattr(importlib.import_module(module), name)


def _unknown_kind(kind: str, text: str) -> str:
    if text and ":" not in text and Path(text).expanduser().exists():
        return f"a path without a kind; expected KIND:PATH, such as imagefolder:{text}; kinds: {', '.join(SOURCES)}"
    near = nearest(kind, SOURCES)
    return f"no kind {kind!r}; expected KIND:PATH with one of {', '.join(SOURCES)}" + (
        f"; nearest: {near}" if near else ""
    )


def _typed(text: str, key: str, value: str, kind: Any) -> Any:
    """An option's text as the type its keyword argument has: int, float, bool, str, a Literal, or one of these or None."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        choices = [choice for choice in typing.get_args(kind) if choice is not type(None)]
        return _typed(text, key, value, choices[0])
    if typing.get_origin(kind) is typing.Literal:
        allowed = typing.get_args(kind)
        for choice in allowed:
            if value == str(choice):
                return choice
        near = nearest(value, map(str, allowed))
        hint = f"; nearest: {near}" if near else ""
        raise UserError(f"source {text!r}: {key}={value}; expected one of {', '.join(map(str, allowed))}{hint}")
    if kind is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if value.lower() in words:
            return words[value.lower()]
        raise UserError(f"source {text!r}: {key}={value}; expected true or false")
    if kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise UserError(f"source {text!r}: {key}={value}; expected {what}") from None
    return value
