"""What is kept never shows: pictures are the same however they are asked for, and those in order are drawn together."""

import pickle
from collections.abc import Sequence

from partwise.data.worlds.recent import BLOCK, Recent

COUNT = 2 * BLOCK + 5


def test_blocks_are_rendered_once_when_asked_for_in_order() -> None:
    asked: list[list[int]] = []

    def render(indices: Sequence[int]) -> list[int]:
        asked.append(list(indices))
        return [10 * index for index in indices]

    recent: Recent[list[int]] = Recent()
    for index in [*range(COUNT), 3, COUNT - 1, 40, 41, 0]:
        rendered, place = recent.find(render, COUNT, index)
        assert rendered[place] == 10 * index
    # The first of all is far from anything asked before.
    assert asked[0] == [0]
    assert asked[1:4] == [list(range(BLOCK)), list(range(BLOCK, 2 * BLOCK)), list(range(2 * BLOCK, COUNT))]
    assert asked[4] == [3], "a leap draws one picture"


def test_copies_begin_empty() -> None:
    recent: Recent[list[int]] = Recent()
    for index in range(3):
        recent.find(list, 5, index)
    copied = pickle.loads(pickle.dumps(recent))
    seen: list[list[int]] = []

    def render(indices: Sequence[int]) -> list[int]:
        seen.append(list(indices))
        return list(indices)

    assert copied.find(render, 5, 2) == ([2], 0) and seen == [[2]]
