"""The methods by name. Imports nothing of them: `find_method` and `find_recipes` do, when asked."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from partwise.config import UserError, did_you_mean

if TYPE_CHECKING:
    from partwise.methods.base import Method
    from partwise.methods.recipes import RecipeBook

METHODS = {
    "adam_v2": "partwise.methods.adam_v2.method:AdamMethod",
    "cutmix": "partwise.methods.cutmix.method:CutMixMethod",
    "fyi": "partwise.methods.fyi.method:FyiMethod",
    "ppl": "partwise.methods.ppl.method:PplMethod",
    "varifocal": "partwise.methods.varifocal.method:VarifocalMethod",
}
"""Name -> "module:Class". Beside the module stands `config`, which holds `BOOK`, the method's recipes."""


def known_methods() -> dict[str, str]:
    """The package's own methods, and those that other packages offer as entry points of the group `partwise.methods`."""
    found = {entry.name: entry.value for entry in entry_points(group="partwise.methods")}
    return found | METHODS


def find_method(name: str) -> type[Method]:
    """The class of a method. Imports torch. Raises UserError for an unknown name, with the nearest."""
    module, _, attribute = _locate(name).partition(":")
    method: type[Method] = getattr(import_module(module), attribute)
    return method


def find_recipes(name: str) -> RecipeBook:
    """The recipes of a method, without importing torch."""
    module = _locate(name).partition(":")[0]
    book: RecipeBook = import_module(f"{module.rpartition('.')[0]}.config").BOOK
    return book


def _locate(name: str) -> str:
    methods = known_methods()
    if name not in methods:
        known = ", ".join(sorted(methods))
        raise UserError(f"there is no method {name!r}{did_you_mean(name, methods)} (known: {known})")
    return methods[name]
