# SPDX-License-Identifier: Apache-2.0
"""The documentation: the site builds without a warning, what it shows is real, and what is shipped is up to date."""

from __future__ import annotations

import doctest
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import kvmipa
from ci.docs import __main__ as docs
from ci.docs import commands, completions, error_causes, examples, man, rst
from ci.lab.__main__ import _parse as parse_lab
from kvmipa import errors
from kvmipa.cli import parser
from kvmipa.cli.completion import DIRECTORY, FILES
from tests.requirements import need

ROOT = Path(__file__).parents[2]
STALE = "it is not of this parser, or of these presets and claims: run python -m ci.docs --shipped"


# ------------------------------------------------------------------------------------------------ the site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as python -m ci.docs does: a warning is an error."""
    need("sphinx")
    need("furo")
    into = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "ci.docs", str(into)]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("0 warnings\n")
    return into


# One test, for pytest-xdist would build the site in every worker.
def test_the_site_builds_and_has_what_is_generated(site: Path) -> None:
    pages = {path.relative_to(site).as_posix(): path.read_text() for path in site.rglob("*.html")}
    assert len(pages) >= len(examples.pages())
    assert pages["explanation/stage2.html"].count("data:image/svg+xml;base64,") >= 5
    assert "rejects_unsupported_default" in pages["explanation/releases.html"]
    assert "apple-m1" in pages["explanation/hosts.html"]
    assert "system.api_version" in pages["explanation/claims.html"]
    assert "WFI ends only with a kick" in pages["explanation/emulation.html"]
    assert "IpaSizeTooLargeError" in pages["howto/errors.html"]
    assert "kvmipa report compare" in pages["reference/cli.html"]
    assert 'id="kvmipa.Kvm.create_vm"' in pages["reference/api.html"]
    for name, page in pages.items():
        assert not re.findall(r'(?:src|href)="(?:https?:)?//(?!www\.sphinx-doc|github\.com|pradyunsg)', page), name
        assert "System Message" not in page, name


def test_a_public_name_without_a_page_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    need("sphinx")
    from ci.docs import extension

    documented = SimpleNamespace(data={"objects": {f"kvmipa.{name}": None for name in kvmipa.__all__ if name != "Vm"}})
    warned: list[tuple[object, ...]] = []
    monkeypatch.setattr(extension, "_LOG", SimpleNamespace(warning=lambda *said: warned.append(said)))
    extension.every_public_name(None, SimpleNamespace(domains={"py": documented}))
    assert [said[1] for said in warned] == ["Vm"]


# ------------------------------------------------------------------------------------------------ docstrings


def test_a_docstring_is_plain_text_beside_code_and_examples() -> None:
    lines = ["Args in *args, a|b, copy_to_ and ``*code_``.", "", ">>> f(*args)", "'*_'", "", "More*"]
    assert [*rst.plain_docstring(lines)] == [
        r"Args in \*args, a\|b, copy_to\_ and ``*code_``.",
        "",
        ">>> f(*args)",
        "'*_'",
        "",
        r"More\*",
    ]


def test_an_error_in_a_docstring_is_a_link() -> None:
    (line,) = rst.plain_docstring(["Raises SlotOverlapError, OSError."])
    assert ":exc:`~kvmipa.errors.SlotOverlapError`" in line
    assert line.endswith("OSError.")


# ------------------------------------------------------------------------------------------------ the pages


@pytest.mark.parametrize("page", [page for page in examples.pages() if ">>>" in page.read_text()], ids=lambda p: p.stem)
def test_examples_give_what_the_page_shows(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    parsed = doctest.DocTestParser().get_doctest(page.read_text(), {}, page.name, str(page), 0)
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(parsed)
    assert result.failed == 0
    assert result.attempted > 0


@pytest.mark.parametrize(
    "page", [page for page in examples.pages() if [*examples.steps(page.read_text())]], ids=lambda p: p.stem
)
def test_sessions_print_what_the_page_shows(page: Path, tmp_path: Path) -> None:
    for step, printed in examples.outcomes(page.read_text(), tmp_path):
        if not step.agrees(printed):
            assert printed == step.shown, f"$ {step.command}: python -m ci.docs.examples puts it right"


def test_every_console_block_is_a_session() -> None:
    for page in examples.pages():
        text = page.read_text()
        shown = re.findall(r"^ *\$ .+", "".join(block[0] for block in examples._BLOCK.finditer(text)), re.MULTILINE)
        assert len(shown) == len([*examples.steps(text)])
        assert text.count(".. code-block:: console") == len(examples._BLOCK.findall(text)), page


def test_other_commands_of_ours_are_real() -> None:
    """What is not run, for it needs a board or the lab, is at least what the parsers take."""
    seen = 0
    for page in examples.pages():
        for block in re.findall(r"\.\. code-block:: sh\n\n((?: +.*\n|\n)+)", page.read_text()):
            for line in block.splitlines():
                words = shlex.split(line, comments=True)
                if words[:1] == ["kvmipa"]:
                    parser().parse_args(words[1:])
                elif words[:3] == ["python", "-m", "ci.lab"] and words[3:] != ["--help"]:
                    parse_lab(words[3:])
                else:
                    continue
                seen += 1
    assert seen >= 8


def test_the_examples_of_the_help_are_what_the_parser_takes() -> None:
    lines = [line for command in commands.commands() for part in command.sections for line in part.lines]
    typed = [re.split(r" {2,}| [|>] ", line)[0] for line in lines if re.match(r"([A-Z_]+=\S+ )?kvmipa ", line)]
    for line in typed:
        words = shlex.split(line)
        parser().parse_args(words[words.index("kvmipa") + 1 :])
    assert len(typed) >= 30


def test_a_session_may_only_run_kvmipa_and_python(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not run here"):
        examples.run("rm -r /", tmp_path)


def test_an_update_changes_only_what_is_printed_otherwise(tmp_path: Path) -> None:
    page = (
        "Text\n\n.. code-block:: console\n\n   $ kvmipa type encode 40\n   wrong\n   $ echo $?\n   0\n\n"
        ".. code-block:: console\n\n   $ kvmipa type encode 48\n   0x...\n\nMore\n"
    )
    assert examples.updated(page, tmp_path) == page.replace("wrong", "0x28")


# ------------------------------------------------------------------------------------------------ errors


def test_every_error_that_names_a_cause_has_words_for_it() -> None:
    raised = error_causes.advice()
    without = {kind.__name__ for kind in error_causes.classes()} - set(raised)
    assert all(getattr(errors, name).__subclasses__() for name in without), "a class that nothing raises, or not seen"


def test_texts_that_are_put_together_show_what_is_filled_in() -> None:
    said = error_causes.advice()["IpaSizeTooLargeError"]
    assert said[0].cause == "the IPA size is above the host's limit of {limit} bits"


# ------------------------------------------------------------------------------------------------ shipped files


def test_a_shipped_file_that_is_out_of_date_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old, new, absent = (tmp_path / name for name in ("old", "new", "absent"))
    old.write_text("old")
    new.write_text("new")
    monkeypatch.setattr(docs, "shipped", lambda: dict.fromkeys((old, new, absent), "new"))
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    assert docs.stale() == [old, absent]
    assert docs.main(["--shipped"]) == 0
    assert docs.stale() == []


@pytest.mark.parametrize("shell", FILES)
def test_the_completion_is_of_this_parser(shell: str) -> None:
    need("shtab")
    assert (DIRECTORY / FILES[shell]).read_text() == completions.script(shell), STALE


def test_the_man_page_is_of_this_parser() -> None:
    assert man.FILE.read_text() == man.page(), STALE


def test_the_man_page_has_every_command_and_option() -> None:
    text = man.page().replace("\\-", "-")
    for command in commands.commands()[1:]:
        assert f"\n.SS {command.name}\n" in text
        for argument in command.arguments:
            assert all(name in text for name in argument.names)
