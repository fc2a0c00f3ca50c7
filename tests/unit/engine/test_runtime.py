"""Where a run computes: the arithmetic for every device, interruption, and one process among itself."""

from __future__ import annotations

import os
import re
import signal
import threading
from pathlib import Path

import pytest
import torch

from partwise.config import TrainFields, UserError
from partwise.data.sharing import Share
from partwise.engine import runtime as module
from partwise.engine.runtime import (
    Interruption,
    Runtime,
    catch_signals,
    choose_precision,
    computes_bfloat16,
    environment,
    finish,
    processor_name,
    start,
)

# -- arithmetic ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def capable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose GPU and CPU can do everything."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    monkeypatch.setattr(module, "computes_bfloat16", lambda: True)


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine before bfloat16; torch would emulate it on the GPU, slowly."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some old GPU")
    monkeypatch.setattr(module, "computes_bfloat16", lambda: False)


DEVICES = ("cuda", "cpu", "mps")


@pytest.mark.usefixtures("capable")
@pytest.mark.parametrize("device", DEVICES)
def test_on_a_capable_machine(device: str) -> None:
    used, reason = choose_precision("auto", torch.device(device))
    expected = {
        "cuda": ("bf16-mixed", "Some GPU computes bfloat16"),
        "cpu": ("bf16-mixed", "this CPU has bfloat16 units"),
        "mps": ("32-true", "this MPS has no bfloat16 units"),
    }
    assert (used, reason) == expected[device]


@pytest.mark.usefixtures("old")
@pytest.mark.parametrize("device", DEVICES)
def test_on_an_old_machine(device: str) -> None:
    used, reason = choose_precision("auto", torch.device(device))
    expected = {
        "cuda": ("16-mixed", "Some old GPU has no bfloat16, float16 with a scaled loss instead"),
        "cpu": ("32-true", "this CPU has no bfloat16 units"),
        "mps": ("32-true", "this MPS has no bfloat16 units"),
    }
    assert (used, reason) == expected[device]


@pytest.mark.usefixtures("old")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("wanted", "used"), [("fp32", "32-true"), ("bf16", "bf16-mixed"), ("fp16", "16-mixed")])
def test_what_is_asked_for_is_done_or_refused(device: str, wanted: str, used: str) -> None:
    if (device, wanted) == ("cpu", "fp16"):
        with pytest.raises(
            UserError, match=r"train\.precision = 'fp16': needs a GPU; expected 'auto', 'fp32' or 'bf16'"
        ):
            choose_precision(wanted, torch.device(device))
    else:
        assert choose_precision(wanted, torch.device(device)) == (used, "asked for")


def test_every_wish_of_a_recipe_is_known() -> None:
    wishes = TrainFields.model_fields["precision"].annotation.__args__  # type: ignore[union-attr]  # a Literal
    for wish in set(wishes) - {"fp16"}:
        assert choose_precision(wish, torch.device("cpu"))[0] in ("64-true", "32-true", "bf16-mixed")


def test_this_cpu_is_told_by_its_flags() -> None:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists() or "flags" not in cpuinfo.read_text():
        pytest.skip("this system does not list what its processor has")
    flags = set(next(line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")).split())
    assert computes_bfloat16() == bool(flags & {"avx512_bf16", "amx_tile"})


def test_the_processor_is_named_with_its_cores() -> None:
    assert re.fullmatch(rf".+, {os.cpu_count()} cores, \S+", processor_name())


# -- starting and ending -------------------------------------------------------------------------------------------------


def test_one_process_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    runtime = start(TrainFields(precision="fp32", threads=1))
    assert (runtime.device, runtime.precision, runtime.share) == (torch.device("cpu"), "32-true", Share(0, 1))
    assert runtime.leads and torch.get_num_threads() == 1 and not runtime.interruption.requested
    facts = environment(runtime)
    assert facts["precision"] == {"used": "32-true", "reason": "asked for"} and facts["threads"] == 1
    assert facts["device"] == {"type": "cpu", "name": processor_name(), "processes": 1}
    assert {"partwise", "python", "torch", "torchvision", "lightning"} == set(facts["versions"])  # type: ignore[call-overload]
    finish(runtime)  # nothing to end


def test_float16_on_a_cpu_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match="needs a GPU"):
        start(TrainFields(precision="fp16", threads=1))


@pytest.fixture(scope="module")
def alone() -> Runtime:
    return start(TrainFields(precision="fp32", threads=1))


def test_one_process_gathers_what_it_has(alone: Runtime) -> None:
    rows = torch.arange(6).reshape(3, 2)
    assert alone.gather(rows) is rows
    scalars = {"loss": torch.tensor(0.5)}
    assert alone.mean(scalars) == scalars and alone.mean({}) == {}
    assert alone.agree(True) is True and alone.agree(False) is False


def test_one_process_gathers_rows(alone: Runtime) -> None:
    rows = {"index": torch.arange(3), "score": torch.rand(3, 2)}
    found = alone.gather_rows(rows)
    assert found.keys() == rows.keys() and all(torch.equal(found[name], rows[name]) for name in rows)
    assert alone.gather_rows({}) == {}


# -- interruption --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_ends(number: int) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    interruption = Interruption()
    with catch_signals(interruption):
        assert not interruption.requested
        os.kill(os.getpid(), number)
        assert interruption.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_one_of_each_ends_too() -> None:
    interruption = Interruption()
    with catch_signals(interruption):
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_handlers_come_back_after_a_failure() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="inside"), catch_signals(Interruption()):
        raise ValueError("inside")
    assert signal.getsignal(signal.SIGTERM) == before


def test_beside_the_main_thread_signals_are_left_to_it() -> None:
    """Python lets only the main thread set handlers; a run in a thread of someone's program works without."""
    before, seen = signal.getsignal(signal.SIGINT), []

    def inside() -> None:
        with catch_signals(Interruption()):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [before]
