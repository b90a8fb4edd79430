# SPDX-License-Identifier: Apache-2.0
"""What each error says and advises, read off the code that raises it (kvmipa/causes and others), which is not run.

Texts that are put together there are shown with the name of what is filled in: "the largest is {limit}".
"""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import kvmipa
from kvmipa import errors
from kvmipa.causes import KERNEL_LOG

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PACKAGE: Final = Path(kvmipa.__file__).parent

# What modules import from each other.
_SHARED: Final = {"KERNEL_LOG": KERNEL_LOG}


@dataclass(frozen=True)
class Advice:
    """One cause in words, and what to do about it."""

    cause: str
    fix: str


def classes() -> list[type[errors.KvmError]]:
    """Every error, in the order of their definition: what is more general comes first."""
    found = [one for one in vars(errors).values() if inspect.isclass(one) and issubclass(one, errors.KvmError)]
    return sorted(found, key=lambda one: inspect.getsourcelines(one)[1])


def errnos(kind: type[errors.KvmError]) -> str:
    """The errno names that a class's docstring has."""
    return ", ".join(dict.fromkeys(re.findall(r"\bE[A-Z0-9]{2,}\b", inspect.getdoc(kind) or "")))


@cache
def advice() -> Mapping[str, tuple[Advice, ...]]:
    """What the errors of each class say, by the class's name."""
    found: dict[str, dict[Advice, None]] = {}
    for path in sorted(_PACKAGE.rglob("*.py")):
        for name, said in _raised(ast.parse(path.read_text(encoding="utf-8"))):
            found.setdefault(name, {})[said] = None
    return {name: tuple(one for one in said if not re.fullmatch(r"\{\w+\}", one.cause)) for name, said in found.items()}


def _raised(module: ast.Module) -> Iterator[tuple[str, Advice]]:
    """Calls of Cause(errors.X, cause, available, fix), and of X(errno, cause=, fix=)."""
    texts = _Texts(module)
    for call in ast.walk(module):
        if not isinstance(call, ast.Call):
            continue
        called = _last_name(call.func)
        keywords = {keyword.arg: keyword.value for keyword in call.keywords}
        if called == "Cause" and len(call.args) == 4 and hasattr(errors, _last_name(call.args[0])):
            yield _last_name(call.args[0]), Advice(*without_formats(texts.of(call.args[1]), texts.of(call.args[3])))
        elif "cause" in keywords and hasattr(errors, called):
            fix = keywords.get("fix")
            yield called, Advice(texts.of(keywords["cause"]), texts.of(fix) if fix is not None else "")


def without_formats(*texts: str) -> list[str]:
    """Texts whose "{end:#x}" is shown as "{end}"."""
    return [re.sub(r"\{(\w+)[:!][^}]*\}", r"{\1}", text) for text in texts]


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


class _Texts:
    """The strings of a module as a reader may see them."""

    def __init__(self, module: ast.Module) -> None:
        self._constants: dict[str, ast.expr] = {}
        for node in module.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
                self._constants[node.target.id] = node.value

    def of(self, node: ast.expr) -> str:
        """Text of an expression; what is only known when it runs is its last name in braces."""
        if isinstance(node, ast.Constant):
            return str(node.value)
        if isinstance(node, (ast.FormattedValue, ast.IfExp)):
            return self.of(node.value if isinstance(node, ast.FormattedValue) else node.body)
        if isinstance(node, (ast.JoinedStr, ast.BinOp)):
            parts = node.values if isinstance(node, ast.JoinedStr) else (node.left, node.right)
            return "".join(map(self.of, parts))
        name = _last_name(node.func if isinstance(node, ast.Call) else node)
        if name in self._constants:
            return self.of(self._constants[name])
        return _SHARED.get(name) or "{" + (name.strip("_").lower() or "...") + "}"
