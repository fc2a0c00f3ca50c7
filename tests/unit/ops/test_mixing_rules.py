"""The parameters of a mix: taking a rank's rows, moving, naming wrong choices."""

import pytest
import torch

from partwise.config import UserError
from partwise.ops.mixing import draw_cutmix
from partwise.ops.mixing_rules import MODES, PARTNER_RULES, check_choice, check_share


def test_slices_keep_the_global_partners_and_count_from_where_they_start() -> None:
    mix = draw_cutmix(9, 8, 8, generator=torch.Generator().manual_seed(0))
    part = mix.slice(2, 7).slice(1, 3)
    assert len(part) == 2 and part.first == 3 and part.size == mix.size and part.rule == mix.rule
    for name in ("boxes", "partner", "lam"):
        assert torch.equal(getattr(part, name), getattr(mix, name)[3:5])
    assert mix.slice(-2, 100).first == 7 and len(mix.slice(-2, 100)) == 2


def test_moving_to_the_same_device_is_free() -> None:
    mix = draw_cutmix(2, 8, 8)
    assert mix.to("cpu") is mix and mix.device.type == "cpu"
    assert mix.to("meta").lam.is_meta


def test_wrong_choices_name_the_nearest() -> None:
    check_choice("pair", MODES, "mode")
    with pytest.raises(
        UserError, match=r"mode: got 'samples', expected one of sample, pair, batch; did you mean 'sample'\?"
    ):
        check_choice("samples", MODES, "mode")
    with pytest.raises(UserError, match="did you mean 'permutation'"):
        check_choice("permute", PARTNER_RULES, "partner")
    with pytest.raises(UserError, match=r"roll$"):
        check_choice("xyzzy", PARTNER_RULES, "partner")
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(UserError, match="p: got"):
            check_share(share, "p")
