"""Definition files: modules that are read statement by statement, so that all is told at once."""

from __future__ import annotations

import ast
import importlib
import inspect
import linecache
import re
import sys
import traceback
import types
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from tidemark.define.code import code_of
from tidemark.define.declarations import Entity, Request, Source
from tidemark.define.lowered import Lowered
from tidemark.define.lowering import lower
from tidemark.define.on_demand import OnDemandFunction
from tidemark.define.problems import Place, Unknown, collecting, keep, ordered, report, suggestion
from tidemark.define.views import FeatureService, FeatureView
from tidemark.errors import DefinitionError, NotFound, Problem
from tidemark.model.defaults import BUILT_IN, Defaults
from tidemark.model.graph import Definitions, OnDemand

# Modules that came from project folders: read anew by the next load, so that edits are seen.
_from_projects: set[str] = set()

_DECLARED = (Entity, Source, Request, FeatureView, FeatureService)


def load_module(name: str | Path, root: str | Path = ".") -> Lowered:
    """As `load_modules`, of one file or module."""
    return load_modules([name], root)


def load_modules(
    names: Iterable[str | Path], root: str | Path = ".", defaults: Defaults = BUILT_IN
) -> Lowered:
    """Read `features.py`, YAML files, and modules by name, relative to the project's root.

    They may refer to each other; `defaults` hold where they do not say.  Modules are importable
    afterwards by the names that on-demand functions record.  Raises `DefinitionError` with every
    problem of all of them.
    """
    base = Path(root).resolve()
    with importable_from(base):
        for known in _from_projects & sys.modules.keys():
            del sys.modules[known]
        with collecting() as problems, _noted(base):
            found = [each for name in names for each in _read(name, base)]
        return _lowered(found, problems, defaults, base)


def _read(name: str | Path, root: Path) -> Generator[object]:
    """A module or a document; nothing if it cannot be read, which is reported."""
    suffix = Path(name).suffix
    try:
        if suffix in {".yaml", ".yml"}:
            from tidemark.define.document import load

            yield load(root / name)
            return
        spec = _found(name, root)
    except DefinitionError as error:
        for problem in error.problems:
            keep(problem)
        return
    imported = sys.modules.get(spec.name) if suffix != ".py" else None
    yield imported or _execute(spec)


def _found(name: str | Path, root: Path) -> ModuleSpec:
    """Where a definition file or module is; raises `DefinitionError` if it is not there."""
    spec = None
    if Path(name).suffix == ".py":
        path = root / name
        if path.is_file():
            spec = spec_from_file_location(_module_name(path, root), path)
    else:
        with suppress(ImportError, ValueError):  # the latter of what can be no module's name
            spec = find_spec(str(name))
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise DefinitionError(
            f"There is no definition file {name}."
            if not (root / name).is_dir()
            else f"{name} is a directory, not a definition file.",
            where=str(root),
            remedy="`definitions` in tidemark.toml names .py files, .yaml files and modules, "
            "relative to the project.",
        )
    return spec


def _lowered(module: object, problems: list[Problem], defaults: Defaults, root: Path) -> Lowered:
    try:
        found = lower(module, defaults=defaults, root=root)
    except DefinitionError as error:
        problems.extend(error.problems)
    else:
        if not problems:
            return found
    raise DefinitionError(ordered(problems))


@contextmanager
def importable_from(root: Path) -> Generator[None]:
    """Let modules of the project's root be imported, also later, when functions are looked up."""
    if str(root) in sys.path:
        sys.path.remove(str(root))
    sys.path.insert(0, str(root))  # before the roots of projects that were open earlier
    importlib.invalidate_caches()
    yield


@contextmanager
def _noted(root: Path) -> Generator[None]:
    """Note the modules of the root that are imported meanwhile as a project's."""
    before = set(sys.modules)
    try:
        yield
    finally:
        new = sys.modules.keys() - before
        _from_projects.update(each for each in new if _is_below(sys.modules[each], root))


def _forget_of_others(module: str, root: Path) -> None:
    """Let go of the modules of other projects' folders, and of one that stands for the asked one.

    Two projects of one process may each have a `features.py`; each computes with its own.
    """
    for name in _from_projects & sys.modules.keys():
        if not _is_below(sys.modules[name], root):
            del sys.modules[name]
    known = sys.modules.get(module)
    path = root.joinpath(*module.split("."))
    own = [each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file()]
    if known is not None and own and Path(known.__file__ or "").resolve() not in own:
        del sys.modules[module]


def _module_name(path: Path, root: Path) -> str:
    try:
        parts = path.resolve().relative_to(root).with_suffix("").parts
    except ValueError:
        return path.stem
    return ".".join(parts)


def _is_below(module: types.ModuleType, root: Path) -> bool:
    file = getattr(module, "__file__", None)
    if not file:
        return False
    path = Path(file)
    return path.is_relative_to(root) and "site-packages" not in path.parts


def _execute(spec: ModuleSpec) -> types.ModuleType:
    """Run a module statement by statement; one that fails leaves its names unknown."""
    path = Path(str(spec.origin))
    text = path.read_text("utf-8")
    linecache.checkcache(str(path))
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        tree = ast.parse(text, str(path))
    except SyntaxError as error:
        report(f"This is not Python: {error.msg}.", Place(str(path), error.lineno or 1))
        return module
    module.__doc__ = ast.get_docstring(tree)
    flags = _future_flags(tree)
    for statement in tree.body:
        single = ast.Module([statement], type_ignores=[])
        code = compile(single, str(path), "exec", flags=flags, dont_inherit=True)
        try:
            exec(code, vars(module))  # noqa: S102  # a definition file is the user's own program
        except DefinitionError as error:
            where = str(_last_line(error, path, statement))
            for problem in error.problems:
                keep(problem if problem.where else replace(problem, where=where))
            _forget(statement, module)
        except Exception as error:  # noqa: BLE001  # whatever it is, the rest of the file is read
            place = _last_line(error, path, statement)
            what, remedy = _said(error)
            report(what, place, remedy)
            _forget(statement, module)
    return module


def _future_flags(tree: ast.Module) -> int:
    """The compiler flags of `from __future__ import ...`, which hold for the whole file."""
    import __future__

    flags = 0
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
            for alias in statement.names:
                flags |= getattr(__future__, alias.name).compiler_flag
    return flags


def _last_line(error: BaseException, path: Path, statement: ast.stmt) -> Place:
    """The last line of the file that was running when the error was raised."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(path) and frame.lineno
    ]
    return Place(str(path), lines[-1] if lines else statement.lineno)


def _said(error: Exception) -> tuple[str, str]:
    """What an error of Python means to the author of definitions, and what to do."""
    text = str(error)
    if found := re.match(r"(\w+)\.__init_subclass__\(\) got an unexpected .* '(\w+)'", text):
        declared = {each.__name__: each for each in _DECLARED}.get(found[1])
        arguments = (
            list(inspect.signature(declared.__init_subclass__).parameters) if declared else []
        )
        return f"{found[1]} has no class argument {found[2]!r}.", suggestion(found[2], arguments)
    if isinstance(error, NameError):
        return f"{text}.", f"Import or define {error.name} first."
    return f"{type(error).__name__}: {text}", ""


def _forget(statement: ast.stmt, module: types.ModuleType) -> None:
    """Bind the names of a statement that failed to something that takes part in anything."""
    for node in ast.walk(statement):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) if node is statement:
                vars(module)[name] = Unknown()
            case ast.Name(id=name, ctx=ast.Store()) if not isinstance(
                statement, ast.ClassDef | ast.FunctionDef
            ):
                vars(module)[name] = Unknown()
            case ast.alias(name=name, asname=asname):
                vars(module).setdefault(asname or name.partition(".")[0], Unknown())
            case _:
                pass


def functions_of(definitions: Definitions, root: str | Path = ".") -> dict[str, Callable[..., Any]]:
    """The on-demand functions by reference (`ratio@1`), imported by the names that they record.

    Raises `NotFound` for one that is not there, or whose parameters are not its inputs.
    """
    base = Path(root).resolve()
    return {each.reference: imported_function(each, base) for each in definitions.on_demand}


def imported_function(feature: OnDemand, root: Path, *, edited: bool = False) -> Callable[..., Any]:
    """The function of an on-demand feature of the project at `root`; raises `NotFound`.

    With `edited` it may have other code by now than the feature was defined with.
    """
    module, _, qualname = feature.function.partition(":")
    root = root.resolve()
    found: Any
    try:
        with importable_from(root), _noted(root):
            _forget_of_others(module, root)
            found = importlib.import_module(module)
        for part in qualname.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise NotFound(
            f"The function {feature.function!r} of {feature.name} cannot be imported: {error}.",
            remedy="It must be at the top level of a module that can be imported "
            "from the project's root.",
        ) from error
    function: Callable[..., Any] = found.function if isinstance(found, OnDemandFunction) else found
    if isinstance(found, OnDemandFunction) and found.version != feature.version:
        raise NotFound(
            f"{feature.function!r} is version {found.version} of {feature.name} now, not version "
            f"{feature.version}.",
            remedy="Keep the code of a version in a module of its own as long as it is read.",
        )
    parameters = set(inspect.signature(function).parameters)
    inputs = {each.parameter for each in feature.inputs}
    if parameters != inputs:
        raise NotFound(
            f"{feature.function!r} has the parameters {', '.join(sorted(parameters))}, "
            f"but {feature.name} gives {', '.join(sorted(inputs))}.",
            remedy="Name the same ones in both.",
        )
    if feature.code and not edited and code_of(function).fingerprint not in {feature.code, ""}:
        raise NotFound(
            f"The code of {feature.function!r} is not that of {feature.reference} any more.",
            remedy="Keep the code of a version in a module of its own as long as it is read.",
        )
    return function
