"""The command line: its exit statuses, what it says, and that help and every typo are answered without importing torch."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from partwise import __version__, api, cli
from partwise.config import UserError
from partwise.engine.loop import Interrupted, NonFiniteLoss
from partwise.methods.table import known_methods

HEAVY = ("torch", "torchvision", "lightning", "timm", "numpy", "matplotlib", "PIL")

MANY = textwrap.dedent(
    """
    import contextlib, io, json, sys, time
    from partwise.cli import _status
    answers = []
    for words in json.loads(sys.stdin.read()):
        out, err = io.StringIO(), io.StringIO()
        begun = time.process_time()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = _status(words, False)
        heavy = [name for name in sys.argv[1:] if name in sys.modules]
        answers.append([status, out.getvalue(), err.getvalue(), heavy, time.process_time() - begun])
    print(json.dumps(answers))
    """
)

SMOKE = ["train", "cutmix/smoke"]
QUICK: dict[str, tuple[list[str], int, str]] = {
    # name: words, exit status, what is said
    "help": (["--help"], 0, "Train vision models that know where"),
    "help of train": (["train", "--help"], 0, "--set"),
    "help of predict": (["predict", "--help"], 0, "PATH..."),
    "nothing": ([], 2, "recipes"),
    "recipes": (["recipes"], 0, "cutmix/cifar100-pyramidnet200"),
    "one recipe": (["recipes", "cutmix/cifar100-pyramidnet200"], 0, "0.8553"),
    "mistyped verb": (["trian"], 2, "did you mean 'train'"),
    "mistyped option": ([*SMOKE, "--dta", "x"], 2, "--data"),
    "option without value": ([*SMOKE, "--out"], 2, "--out"),
    "missing recipe": (["train"], 2, "RECIPE"),
    "number that is none": ([*SMOKE, "--seeds", "x"], 2, "'--seeds'"),
    "number out of range": ([*SMOKE, "--devices", "0"], 2, "'--devices'"),
    "mistyped recipe": (["train", "cutmix/smok"], 2, "did you mean 'cutmix/smoke'?"),
    "mistyped recipe shown": (["recipes", "cutmix/smok"], 2, "did you mean 'cutmix/smoke'?"),
    "recipe without its method": (
        ["train", "smoke"],
        2,
        "did you mean 'adam_v2/smoke' or 'cutmix/smoke' or",
    ),
    "recipe file that is not there": (["train", "mine.yaml"], 2, "mine.yaml: there is no such file"),
    "mistyped field": ([*SMOKE, "--set", "train.epoch=3"], 2, "did you mean 'train.epochs'?"),
    "mistyped value": ([*SMOKE, "--set", "train.epochs=x"], 2, "train.epochs = 'x'"),
    "mistyped name": ([*SMOKE, "--set", "method.mix=cutmx"], 2, "did you mean 'cutmix'?"),
    "setting without value": ([*SMOKE, "--set", "train.epochs"], 2, "FIELD=VALUE"),
    "mistyped source": ([*SMOKE, "--data", "creaturs:"], 2, "nearest: creatures"),
    "mistyped source in a setting": ([*SMOKE, "--set", "data.source=cifr10:x"], 2, "nearest: cifar10"),
    "source described": (["data", "imagefoldr:x"], 2, "nearest: imagefolder"),
    "mistyped grid": ([*SMOKE, "--grid", "train.epoch=1,2"], 2, "did you mean 'train.epochs'?"),
    "mistyped value of a grid": ([*SMOKE, "--grid", "train.epochs=1,x"], 2, "--grid train.epochs=x"),
    "mistyped suite": ([*SMOKE, "--set", "evaluate.suites=classificaton"], 2, "did you mean 'classification'?"),
    "suite measured again": (["evaluate", "runs/cifar", "--suite", "localisation"], 2, "did you mean 'localization'?"),
    "mistyped run": (["evaluate", "runs/cifr"], 2, "did you mean 'cifar'?"),
    "mistyped run predicts": (["predict", "runs/cifr", "x.png"], 2, "did you mean 'cifar'?"),
    "mistyped run reported": (["report", "runs/cifar", "runs/cifr"], 2, "did you mean 'cifar'?"),
    "parts that do not fit": ([*SMOKE, "--set", "train.accumulate=5"], 2, "batch size that it divides is 30"),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Every quick command, in one fresh process: [status, stdout, stderr, heavy modules, seconds of processor]."""
    place = tmp_path_factory.mktemp("quick")
    (place / "runs" / "cifar").mkdir(parents=True)
    (place / "runs" / "cifar" / "recipe.yaml").write_text("recipe: cutmix/cifar10-resnet20\n")
    done = subprocess.run(
        [sys.executable, "-c", MANY, *HEAVY],
        input=json.dumps([words for words, _, _ in QUICK.values()]),
        capture_output=True,
        text=True,
        check=True,
        cwd=place,
    )
    assert {path.name for path in place.rglob("*")} == {"runs", "cifar", "recipe.yaml"}  # nothing was written
    return dict(zip(QUICK, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("name", QUICK)
def test_answered_at_once(name: str, answers: dict[str, list[Any]]) -> None:
    _, wanted, says = QUICK[name]
    status, out, err, heavy, seconds = answers[name]
    assert heavy == [], f"{heavy} imported by then"
    assert status == wanted
    assert seconds < 0.5
    if err:
        assert err.startswith("partwise: error: ") and len(err.splitlines()) <= 2 and out == ""
    assert says.lower() in (out + err).lower()
    assert (status == 0) == (err == "") or not QUICK[name][0]


def test_start_takes_under_a_second_of_processor() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "partwise", "recipes"], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "cutmix/smoke" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


@pytest.mark.parametrize("name", ["recipes", "one recipe"])
def test_recipes_speak(name: str, answers: dict[str, list[Any]]) -> None:
    out = answers[name][1]
    for line in out.splitlines() if name == "recipes" else ():
        recipe, _, words = line.partition(" ")
        assert recipe.partition("/")[0] in known_methods() and len(words.strip()) > 20
    if name == "one recipe":
        for piece in ("partwise train cutmix/cifar100-pyramidnet200", "1905.04899", "table 5", "batch_size: 64"):
            assert piece in out


# -- exit statuses -------------------------------------------------------------------------------------------------------


def doing(action: Callable[[], object], monkeypatch: pytest.MonkeyPatch, *, debug: bool = False) -> int:
    """The exit status of a verb that does `action`."""
    monkeypatch.setattr(api, "doctor", action)
    return cli._status(["doctor"], debug)


def raising(error: BaseException) -> Callable[[], object]:
    def action() -> object:
        raise error

    return action


def test_done(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert doing(lambda: {"torch": "2", "partwise": "0"}, monkeypatch) == 0
    assert capsys.readouterr().out == "torch     2\npartwise  0\n"


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (UserError("x: is wrong"), 2, "partwise: error: x: is wrong\n"),
        (NonFiniteLoss("train: the loss of step 3"), 2, "partwise: error: train: the loss of step 3\n"),
        (PermissionError(errno.EACCES, "Permission denied", "/a/b"), 2, "partwise: error: /a/b: permission denied\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "partwise: error: no space left on device\n"),
        (Interrupted(), 130, "the same command continues\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_exit_status(
    error: BaseException, status: int, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doing(raising(error), monkeypatch) == status
    shown = capsys.readouterr()
    assert shown.err.endswith(says) and "Traceback" not in shown.err and shown.out == ""


@pytest.mark.parametrize(
    "error", [RuntimeError("boom"), OSError("boom"), OSError(errno.EBADF, "boom"), AssertionError("boom")]
)
def test_our_own_fault(error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert doing(raising(error), monkeypatch) == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown and "boom" in shown and shown.endswith("please report the lines above\n")


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert doing(raising(UserError("x: is wrong")), monkeypatch, debug=True) == 2
    shown = capsys.readouterr().err
    assert "Traceback" in shown and shown.endswith("partwise: error: x: is wrong\n")


@pytest.mark.parametrize("where", [0, 1, 3])
def test_debug_may_stand_anywhere(where: int, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "cutmix/smoke", "--set", "train.epoch=3"]
    words.insert(where, "--debug")
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    assert "Traceback" in capsys.readouterr().err


def test_only_the_leading_process_complains(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert doing(raising(UserError("x")), monkeypatch) == 2
    assert capsys.readouterr().err == ""


def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, **options)


def test_python_m_partwise() -> None:
    done = run("-m", "partwise", "recipes", "cutmix/smok")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("partwise: error: there is no recipe")
    assert run("-m", "partwise", "--help").stdout.startswith("Usage: ")


def test_the_installed_command() -> None:
    script = Path(sys.executable).with_name("partwise")
    if not script.exists():
        pytest.skip("the package is not installed as a command")
    done = subprocess.run([script, "recipes"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "cutmix/smoke" in done.stdout


def test_a_reader_that_leaves_early_is_no_fault() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "partwise", "recipes"],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_importing_the_package_is_instant() -> None:
    done = run(
        "-c",
        "import sys, partwise as pw; assert not {'torch', 'numpy', 'pydantic'} & {*sys.modules}; print(pw.__version__)",
    )
    assert (done.stdout, done.stderr) == (f"{__version__}\n", "")


def test_every_public_name_is_there() -> None:
    import partwise

    assert set(partwise.__all__) <= set(dir(partwise))
    assert all(getattr(partwise, name) is not None for name in partwise.__all__)
    assert partwise.train is api.train and partwise.load is api.load


def test_an_unknown_name_of_the_package() -> None:
    import partwise

    with pytest.raises(AttributeError, match="partwise"):
        _ = partwise.trian


VERBS = ("train", "evaluate", "predict", "export", "report", "data", "doctor")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_a_function_of_the_api(verb: str) -> None:
    assert callable(getattr(api, verb)) and verb in api.__all__
    assert verb in {
        command.name or command.callback.__name__ for command in cli.app.registered_commands if command.callback
    }
