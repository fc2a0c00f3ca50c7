"""The block of pictures rendered last, so that pictures asked for one by one in order are drawn together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Generic, TypeVar

Rendered = TypeVar("Rendered")

BLOCK = 32
"""Pictures that are drawn together."""


class Recent(Generic[Rendered]):
    """Threads that want the same block wait for it; copies begin empty. What is returned never depends on what is kept."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._asked = -2 * BLOCK
        self._block = -1
        self._rendered: Rendered | None = None

    def __reduce__(self) -> tuple[type[Recent[Rendered]], tuple[()]]:
        return type(self), ()

    def find(self, render: Callable[[Sequence[int]], Rendered], count: int, index: int) -> tuple[Rendered, int]:
        """A rendering of some of the `count` pictures, and the place of picture `index` in it."""
        block = index // BLOCK
        with self._lock:
            near, self._asked = abs(index - self._asked) <= BLOCK, index
            if self._rendered is not None and self._block == block:
                return self._rendered, index % BLOCK
            if not near:
                return render([index]), 0
            self._rendered = render(range(block * BLOCK, min((block + 1) * BLOCK, count)))
            self._block = block
            return self._rendered, index % BLOCK
