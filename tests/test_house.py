"""The house rules of the design: floors, sizes, names, words, and what may not be written anywhere."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

import partwise
from partwise.methods.base import Method

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "partwise"
MODULES = sorted(SOURCE.rglob("*.py"))
WRITTEN = sorted(
    path for folder in ("src", "tests", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py")
)


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def dotted(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree(path)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


# -- imports -------------------------------------------------------------------------------------------------------------


def test_imports_point_to_lower_floors() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    kept = re.search(r"Contracts: (\d+) kept, 0 broken", done.stdout)
    assert kept is not None and int(kept[1]) >= 1, done.stdout


def imports(path: Path) -> set[str]:
    """The modules of the package that a module imports, wherever in it, but not for types alone."""
    known = {dotted(module) for module in MODULES}
    found: set[str] = set()

    def look(node: ast.AST) -> None:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{named(path)}: a relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(inner & known)
            if node.module and inner - known:
                found.add(node.module)
        for child in ast.iter_child_nodes(node):
            look(child)

    look(tree(path))
    return found & known


def cycle(graph: dict[str, set[str]]) -> list[str] | None:
    """Modules that import one another in a ring, or None."""
    done: set[str] = set()

    def walk(module: str, way: list[str]) -> list[str] | None:
        if module in way:
            return [*way[way.index(module) :], module]
        if module in done:
            return None
        for other in sorted(graph[module]):
            if ring := walk(other, [*way, module]):
                return ring
        done.add(module)
        return None

    return next((ring for module in sorted(graph) if (ring := walk(module, []))), None)


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {dotted(path): imports(path) - {dotted(path)} for path in MODULES}
    assert sum(map(len, graph.values())) > 100, "the graph was not read"
    assert cycle(graph) is None
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()}) == ["a", "b", "c", "a"]


def test_a_method_imports_no_other_and_evaluators_no_method() -> None:
    for path in MODULES:
        own = dotted(path).split(".")
        for other in imports(path):
            parts = other.split(".")
            if parts[1:2] == ["methods"] and len(parts) > 2 and (SOURCE / "methods" / parts[2]).is_dir():
                assert own[1:3] == parts[1:3], f"{dotted(path)} imports {other}"


# -- sizes and names -----------------------------------------------------------------------------------------------------


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_files_are_short() -> None:
    long = {named(path): lines(path) for path in MODULES if lines(path) > 500}
    assert not long
    assert statistics.median(map(lines, MODULES)) < 200


def test_functions_are_short() -> None:
    sizes = {
        f"{named(path)}:{function.name}": (function.end_lineno or 0) - function.lineno + 1
        for path in MODULES
        for function in functions(path)
    }
    assert not {name: size for name, size in sizes.items() if size > 80}
    assert statistics.median(sizes.values()) < 25


def test_every_module_has_a_name_that_says_something() -> None:
    empty = re.compile(r"(util|helper|common|misc|stuff|tools?)s?$", re.IGNORECASE)
    assert not [named(path) for path in WRITTEN if empty.search(path.stem) or empty.search(path.parent.name)]


def test_tests_lie_where_their_modules_lie() -> None:
    """`tests/unit` mirrors `src`: a folder there is a folder here."""
    folders = {
        path.parent.relative_to(ROOT / "tests" / "unit") for path in (ROOT / "tests" / "unit").rglob("test_*.py")
    }
    assert folders and all((SOURCE / folder).is_dir() for folder in folders)


# -- words ---------------------------------------------------------------------------------------------------------------


def public_definitions(path: Path) -> Iterator[tuple[str, ast.AST]]:
    """Functions and classes of a module, and the methods of its classes, whose names do not begin with `_`."""
    for node in tree(path).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node.name, node


def test_every_public_function_and_class_says_what_it_is() -> None:
    silent = [
        f"{named(path)}:{name}"
        for path in MODULES
        for name, node in public_definitions(path)
        if not ast.get_docstring(node)  # type: ignore[arg-type]
    ]
    assert not silent


def test_every_module_says_what_it_is_for() -> None:
    assert not [named(path) for path in MODULES if not ast.get_docstring(tree(path))]


def test_summaries_are_one_line_that_ends() -> None:
    unfinished = []
    for path in MODULES:
        for name, node in [("", tree(path)), *public_definitions(path)]:
            first = (ast.get_docstring(node) or "").split("\n\n")[0]  # type: ignore[arg-type]
            if first and first[-1] not in ".:?;":
                unfinished.append(f"{named(path)}:{name}")
    assert not unfinished


# -- what is written nowhere ---------------------------------------------------------------------------------------------


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call with the dotted name of what is called."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def unsafe(name: str, call: ast.Call) -> bool:
    """Whether a call may execute what a file holds."""
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if name in ("torch.load", "load") and name.startswith("torch"):
        return given.get("weights_only") != "True"
    if name in ("np.load", "numpy.load"):
        return given.get("allow_pickle", "False") != "False"
    forbidden = (
        r"(pickle|cPickle|dill|joblib|marshal|shelve)\.(load|loads|open|Unpickler)|yaml\.(load|full_load|unsafe_load)"
    )
    return bool(re.fullmatch(f"{forbidden}|eval|exec|os\\.system", name))


def test_nothing_that_is_read_is_executed() -> None:
    found = [
        f"{named(path)}:{call.lineno} {name}" for path in MODULES for name, call in calls(path) if unsafe(name, call)
    ]
    assert not found


@pytest.mark.parametrize(
    ("code", "bad"),
    [
        ("pickle.load(f)", True),
        ("torch.load(f)", True),
        ("torch.load(f, weights_only=False)", True),
        ("torch.load(f, map_location='cpu', weights_only=True)", False),
        ("np.load(f, allow_pickle=True)", True),
        ("np.load(f)", False),
        ("yaml.load(f, Loader=yaml.SafeLoader)", True),
        ("yaml.safe_load(f)", False),
        ("eval('1')", True),
        ("network.eval()", False),
    ],
)
def test_the_search_finds_what_it_is_for(code: str, bad: bool) -> None:
    (call,) = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    assert unsafe(ast.unparse(call.func), call) is bad


def test_unpickling_stands_in_one_place() -> None:
    """CIFAR's python batches: an unpickler that admits arrays and plain containers only."""
    users = [path for path in MODULES if re.search(r"^\s*(import|from) pickle\b", path.read_text(), re.MULTILINE)]
    assert [named(path) for path in users] in ([], ["src/partwise/data/readers/plain_pickle.py"])


def test_nothing_is_printed() -> None:
    """Words go through the progress line, the command line or a log."""
    assert not [f"{named(path)}:{call.lineno}" for path in MODULES for name, call in calls(path) if name == "print"]


def test_nothing_is_left_to_do_in_the_source() -> None:
    # Three X behind a comma or a quote are chromosomes.
    marks = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|(?<![,\"])X" + r"XX|HA" + r"CK)\b")
    assert not [named(path) for path in WRITTEN if marks.search(path.read_text(encoding="utf-8"))]


def tracked() -> list[Path]:
    """Files that git keeps, or where this is no checkout, all that were written by hand."""
    try:
        done = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return [*WRITTEN, *ROOT.glob("*.*")]
    files = [ROOT / name for name in done.stdout.decode().split("\0") if name]
    return [path for path in files if path.is_file()]


PLACES = ("/" + "work", "/" + "root", "/" + "home", "/" + "Users", "/" + "opt/wheels")
"""Where a machine keeps somebody's files; put together here, so that this file names none."""
ABSOLUTE = re.compile("|".join(rf"(?<![\w.~<>{{}}*-]){place}/\w" for place in PLACES))


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    found = []
    for path in tracked():
        data = path.read_bytes()
        if b"\0" in data[:8192]:
            continue
        for number, line in enumerate(data.decode("utf-8", errors="replace").splitlines(), 1):
            if ABSOLUTE.search(line):
                found.append(f"{named(path)}:{number}: {line.strip()[:100]}")
    assert not found
    assert ABSOLUTE.search("--out " + PLACES[0] + "/main") and not ABSOLUTE.search("frame" + PLACES[0] + "/main")


# -- the package ---------------------------------------------------------------------------------------------------------


def test_the_version_is_the_installed_one() -> None:
    assert partwise.__version__ == version("partwise")


def test_every_public_name_is_there() -> None:
    assert len(partwise.__all__) == len(set(partwise.__all__))
    for name in partwise.__all__:
        assert getattr(partwise, name) is not None
    assert set(partwise.__all__) <= set(dir(partwise))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        partwise.trian  # noqa: B018  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_what_a_module_offers_exists(path: Path) -> None:
    if path.name == "__main__.py":
        return
    module = importlib.import_module(dotted(path))
    for name in getattr(module, "__all__", []):
        assert hasattr(module, name), name


def test_the_contract_of_a_method_is_small_and_abstract() -> None:
    assert inspect.isabstract(Method)
    assert {"networks", "specs", "stages", "predict"} == Method.__abstractmethods__
    for name in Method.__abstractmethods__:
        assert inspect.getdoc(getattr(Method, name)), name
    with pytest.raises(TypeError, match="abstract"):
        Method(None, None)  # type: ignore[abstract, arg-type]
