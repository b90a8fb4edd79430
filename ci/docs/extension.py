# SPDX-License-Identifier: Apache-2.0
"""kvmipa's Sphinx extension: generated parts, pictures of stage 2, docstrings as plain text, short names as links."""

from __future__ import annotations

import builtins
import collections.abc
import contextlib
import re
import typing
from typing import TYPE_CHECKING, Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from ci.docs import generated
from ci.docs.rst import plain_docstring

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

_LOG = logging.getLogger(__name__)

# Names of the standard library in annotations: the site is built offline, without the inventory of Python's own.
_PYTHON = {*dir(builtins), *collections.abc.__all__, *typing.__all__, *contextlib.__all__, "Path", "array", "Enum"}

# Bases whose methods are shown with the class: nobody imports them.
_INTERNAL = ("kvmipa.closing", "kvmipa.handle", "kvmipa.extension")
_INTERNAL_CLASSES = {"AttributeHandle"}

_BETWEEN_HANDLES = {"kind", "keep", "refused", "died_of", "forget"}

# Types in a few signatures that are for kvmipa itself.
_NO_PART_OF_THE_API = {
    *("Asked", "Data", "Encoding", "File", "Found", "Held", "MemoryRegion", "Operation", "RegisterBank", "Running"),
    *("SlotTable", "Turn", "Value"),
}

# Made by open(), and by methods of what that gives: how they are called is nobody's business.
_NOT_CALLED = re.compile(
    r"kvmipa\.(Kvm|Vm|Vcpu|Device|Vgic|Its|Memslot|GuestMemfd|DirtyRing|Irqfd|IoEventFd|StatisticsFile)"
    r"|kvmipa\.vcpu_registers\.Registers|kvmipa\.stage2\.tables\.\w+"
)


class Generated(SphinxDirective):
    """``.. generated:: NAME``: a function of generated.py."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """What the function's markup becomes."""
        text = generated.PARTS[self.arguments[0]]()
        made: list[nodes.Node] = self.parse_text_to_nodes(text, allow_section_headings=True)
        return made


class Stage2Picture(SphinxDirective):
    """``.. stage2-picture:: 48`` with ``:pages: 16``: the picture of a VM's stage 2."""

    required_arguments = 1
    option_spec = {"pages": directives.nonnegative_int}  # noqa: RUF012  docutils declares it so

    def run(self) -> list[nodes.Node]:
        """An image, with what it shows for those who do not see it."""
        bits, pages = int(self.arguments[0]), self.options.get("pages", 4)
        words = f"Stage-2 tables of a VM of {bits} bits with {pages}K pages"
        return [nodes.image(uri=generated.picture(pages << 10, bits), alt=words)]


def plain_text(_app: Sphinx, _what: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
    """Docstrings are prose with examples, and no markup."""
    lines[:] = plain_docstring(lines)


def public_bases(_app: Sphinx, _name: str, _object: object, _options: object, bases: list[Any]) -> None:
    """What a class is for its user."""
    bases[:] = [base for base in bases if _is_public(base)]


def _is_public(base: Any) -> bool:
    name = getattr(base, "__name__", "")
    return not (name.startswith("_") or name in _INTERNAL_CLASSES or getattr(base, "__module__", "") in _INTERNAL)


def skip(_app: Sphinx, _what: str, name: str, _object: object, is_skipped: bool, _options: object) -> bool | None:
    """Leave out what handles have for each other."""
    # Hooks of the pytest plugin are pytest's business.
    return True if name in _BETWEEN_HANDLES or name.startswith("pytest_") else None


def no_constructor(
    _app: Sphinx, what: str, name: str, _object: object, _options: object, signature: str, returned: str
) -> tuple[str, str] | None:
    """Signatures of classes that only kvmipa makes are left out, and those of fixtures."""
    if name.startswith("kvmipa.pytest_plugin."):
        return "", ""
    return ("", returned) if what == "class" and _NOT_CALLED.fullmatch(name) else None


def resolve(app: Sphinx, env: BuildEnvironment, node: Any, content: nodes.TextElement) -> nodes.Node | None:
    """A class by its last name, as annotations have it; the standard library's names stay without a link."""
    if node.get("refdomain") != "py":
        return None
    target = str(node["reftarget"])
    last = target.rpartition(".")[2]
    if target.startswith("kvmipa."):
        is_private = last.startswith("_") or last in _INTERNAL_CLASSES | _NO_PART_OF_THE_API
        return content if is_private else None
    if last in _PYTHON or "." in target or "[" in target:
        return content
    domain = env.domains["py"]
    found = sorted(name for name in domain.data["objects"] if name.endswith(f".{last}"))
    if not found:
        return content if last in _NO_PART_OF_THE_API else None
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", found[0], node, content)


def every_public_name(_app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of what ``import kvmipa`` gives and the reference lacks."""
    import kvmipa

    known = env.domains["py"].data["objects"]
    for name in kvmipa.__all__:
        if f"kvmipa.{name}" not in known and not name.startswith("__"):
            _LOG.warning("kvmipa.%s is public, and not in the reference", name)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("generated", Generated)
    app.add_directive("stage2-picture", Stage2Picture)
    app.connect("autodoc-process-docstring", plain_text)
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-bases", public_bases)
    app.connect("autodoc-process-signature", no_constructor)
    app.connect("missing-reference", resolve)
    app.connect("env-check-consistency", every_public_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
