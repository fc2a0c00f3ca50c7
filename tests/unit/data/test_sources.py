"""Source strings: their parts, their options, and the answers to mistakes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import miniatures

from partwise.config import UserError
from partwise.data.sources import SOURCES, SourceSpec, open_source, parse_source, source_class


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("cub:some/where", SourceSpec("cub", "some/where", {})),
        ("creatures:?size=64&train=4000", SourceSpec("creatures", "", {"size": "64", "train": "4000"})),
        ("creatures", SourceSpec("creatures", "", {})),
        ("creatures?size=32", SourceSpec("creatures", "", {"size": "32"})),
        ("csv:C:/odd: name?label=the%20label%26more", SourceSpec("csv", "C:/odd: name", {"label": "the label&more"})),
        ("images:what?.jpg?", SourceSpec("images", "what?.jpg", {})),
    ],
)
def test_parts(text: str, spec: SourceSpec) -> None:
    assert parse_source(text) == spec


@given(
    kind=st.sampled_from(sorted(SOURCES)),
    path=st.text(st.characters(exclude_characters="?"), max_size=20),
    options=st.dictionaries(
        st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.from_regex(r"[\w.:/+-]{1,8}", fullmatch=True)
    ),
)
def test_parts_come_back(kind: str, path: str, options: dict[str, str]) -> None:
    query = "?" + "&".join(f"{key}={value}" for key, value in options.items()) if options else ""
    assert parse_source(f"{kind}:{path}{query}") == SourceSpec(kind, path, options)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cifar:x", ["no kind 'cifar'", "nearest: cifar10"]),
        ("imagfolder:x", ["nearest: imagefolder"]),
        ("", ["no kind ''", "imagefolder"]),
        ("cub:x?labels", ["'labels' is not key=value"]),
        ("cub:x?a=1&a=2", ["'a=2' is given twice"]),
        ("cub:", ["no path", "images.txt"]),
        ("creatures:here", ["generated and takes no path"]),
        ("creatures:?sise=64", ["no option 'sise'", "nearest: size"]),
        ("creatures:?size=big", ["size=big", "a whole number"]),
        ("creatures:?size=64.5", ["a whole number"]),
        ("cub:x?size=3", ["no option 'size'", "cub has none"]),
        ("cifar100:x?labels=corse", ["labels=corse", "fine, coarse", "nearest: coarse"]),
    ],
)
def test_mistakes_are_answered(text: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        open_source(text)
    message = str(caught.value)
    assert message.startswith(f"source {text!r}: ") and "\n" not in message
    for word in words:
        assert word in message


def test_a_bare_path_is_recognised(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a path without a kind") as caught:
        open_source(str(tmp_path))
    assert f"imagefolder:{tmp_path}" in str(caught.value)


def test_options_reach_the_reader(tmp_path: Path) -> None:
    made = miniatures.cifar100_binary(tmp_path / "set")
    assert len(open_source(made.source).classes) == 100
    assert len(open_source(f"{made.source}?labels=coarse").classes) == 20


def test_the_home_folder_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    miniatures.images(tmp_path / "set")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(open_source("images:~/set")) == 3


def test_every_kind_of_the_table_is_a_class_of_that_kind() -> None:
    for kind in SOURCES:
        assert source_class(kind).kind == kind


def test_a_typing_mistake_needs_no_torch() -> None:
    code = (
        "import sys; from partwise.data.sources import parse_source\n"
        "try: parse_source('cifra10:x')\n"
        "except ValueError: pass\n"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
