"""The half cosine against its values in closed form."""

from __future__ import annotations

from itertools import pairwise

import pytest

from partwise.ops.schedules import cosine_schedule


@pytest.mark.parametrize(("start", "end"), [(0.04, 0.4), (0.996, 1.0), (1e-3, 1e-6)])
def test_the_cosine_in_closed_form(start: float, end: float) -> None:
    values = [cosine_schedule(step, 8, start=start, end=end) for step in range(9)]
    shares = [1, 0.9619397663, 0.8535533906, 0.6913417162, 0.5, 0.3086582838, 0.1464466094, 0.0380602337, 0]
    assert values == pytest.approx([end + (start - end) * share for share in shares], rel=1e-9)
    assert values[0] == pytest.approx(start, rel=1e-15)
    assert all((after - before) * (end - start) > 0 for before, after in pairwise(values))
    assert cosine_schedule(7, 8, start=start, end=end) != end == cosine_schedule(11, 8, start=start, end=end)
