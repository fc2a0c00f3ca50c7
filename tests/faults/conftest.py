"""One finished run for all cases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from partwise import cli
from tests.faults.places import Place, train


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a second, made by the command."""
    out = tmp_path_factory.mktemp("finished") / "run"
    assert cli._status(train(out=out), False) == 0
    return out


@pytest.fixture
def place(tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path.parent / f"{tmp_path.name}-cache"))
    return Place(tmp_path, finished)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], str]:
    """What a command says that ends with status 2: one or two lines, and no traceback."""

    def call(words: list[str]) -> str:
        capsys.readouterr()
        status = cli._status(words, False)
        shown = capsys.readouterr()
        lines = shown.err.splitlines()
        assert status == 2, shown.err
        assert lines[0].startswith("partwise: error: ") and len(lines) <= 2, shown.err
        assert shown.out == ""
        return shown.err

    return call
