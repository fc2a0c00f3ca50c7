"""Templates, pictures and files of a page: fills a template, inlines images, writes the result. No content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FunctionLoader, StrictUndefined
from numpy.typing import NDArray

from partwise.config import UserError
from partwise.report.figures import encode_png
from partwise.report.reading import data_address
from partwise.run import write_atomically


@dataclass(frozen=True)
class Drawn:
    """A chart that the page draws itself, as a `data:` address with its size in pixels."""

    title: str
    source: str
    width: int
    height: int


def drawn(title: str, image: NDArray[np.uint8]) -> Drawn:
    """A uint8 `(H, W, 3)` picture, ready for the page."""
    return Drawn(title, data_address(encode_png(image), "image/png"), image.shape[1], image.shape[0])


def _template(name: str) -> str:
    return (resources.files("partwise.report") / "templates" / name).read_text(encoding="utf-8")


def render(template: str, context: Mapping[str, Any]) -> str:
    """Fill a template of this package. Every value is escaped, and a name that is not given is an error."""
    environment = Environment(
        loader=FunctionLoader(_template),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(context)


def save(target: Path, html: str) -> Path:
    """Write a page whole or not at all. Raises UserError where the place cannot be written."""
    try:
        write_atomically(target, html.encode("utf-8", errors="replace"))
    except OSError as error:
        raise UserError(f"{target}: cannot write the page there: {error.strerror}") from None
    return target
