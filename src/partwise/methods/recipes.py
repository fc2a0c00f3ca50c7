"""Named recipes of a method: functions that return a whole recipe, whose docstrings are their contracts. No torch here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from partwise.config import (
    Paper,
    Recipe,
    UserError,
    build,
    check_together,
    did_you_mean,
    merge,
    nearest,
    override,
    read_yaml,
)
from partwise.data.sources import parse_source
from partwise.evaluate.base import SUITES

Maker = Callable[[], Recipe]


@dataclass
class RecipeBook:
    """The recipes of one method by name, the model they are instances of, and the paper they re-create."""

    model: type[Recipe]
    paper: Paper
    makers: dict[str, Maker] = field(default_factory=dict)

    def add(self, name: str) -> Callable[[Maker], Maker]:
        """Decorator: register the function that makes the recipe `name`."""

        def register(maker: Maker) -> Maker:
            assert name not in self.makers, name
            self.makers[name] = maker
            return maker

        return register

    def contract(self, name: str) -> str:
        """The docstring of a recipe: command, hardware, minutes, expected number."""
        return inspect.cleandoc(self.makers[name].__doc__ or "")


def all_books() -> dict[str, RecipeBook]:
    """Every method's recipes."""
    from partwise.methods.table import find_recipes, known_methods

    return {name: find_recipes(name) for name in known_methods()}


def find_recipe(name: str) -> tuple[Recipe, RecipeBook]:
    """A named recipe. Raises UserError for an unknown name, with the nearest."""
    books = all_books()
    names = [recipe for book in books.values() for recipe in book.makers]
    for book in books.values():
        if name in book.makers:
            return book.makers[name](), book
    same = [recipe for recipe in names if recipe.split("/")[1] == name]  # the method was left out
    near = same or [match for match in [nearest(name, names)] if match]
    answer = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise UserError(f"there is no recipe {name!r}{answer} (`partwise recipes` lists them)")


def load_recipe(name_or_file: str) -> tuple[Recipe, RecipeBook]:
    """A recipe by name, or from a YAML file: complete, or the name of a recipe under `recipe` and what differs from it."""
    path = Path(name_or_file)
    if path.suffix not in (".yaml", ".yml"):
        return find_recipe(name_or_file)
    values = read_yaml(path)
    if "recipe" not in values:
        raise UserError(f"{path}: recipe is missing; expected the name of the recipe that this file is, or starts from")
    base, book = find_recipe(str(values["recipe"]))
    return build(book.model, merge(base.model_dump(mode="python"), values), str(path)), book


def check_suites(names: Iterable[str]) -> None:
    """Raise UserError for an evaluation suite that does not exist, with the nearest."""
    for name in names:
        if name not in SUITES:
            raise UserError(
                f"evaluate.suites: there is no suite {name!r}{did_you_mean(name, SUITES)} (known: {', '.join(SUITES)})"
            )


def resolve(
    recipe: str | Recipe, *, data: str | None = None, settings: Sequence[str] = ()
) -> tuple[Recipe, RecipeBook]:
    """The recipe by name, file or value, with `--data` and `--set` applied; suites and the kind of source are known ones."""
    if isinstance(recipe, Recipe):
        found, book = recipe, find_recipe(recipe.recipe)[1]
    else:
        found, book = load_recipe(recipe)
    changes = ([f"data.source={data}"] if data is not None else []) + list(settings)
    found = override(found, changes)
    check_together(found)
    check_suites((*found.evaluate.suites, *found.evaluate.during))
    parse_source(found.data.source)
    return found, book
