# SPDX-License-Identifier: Apache-2.0
"""Builds the documentation: ``python -m ci.docs [DIRECTORY]``.

HTML goes to DIRECTORY (build/docs), offline; a warning is an error. So is a file in kvmipa/cli that is shipped, made
from the parser, the presets and the claims, and no longer what these say: the man page and the shells' completions.
``python -m ci.docs --shipped`` makes those.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ci.docs import completions, man

SOURCE = Path(__file__).parent
ROOT = SOURCE.parents[1]


def build(into: Path) -> int:
    """Run Sphinx; its exit status."""
    from sphinx.cmd.build import build_main

    strict = ["--fail-on-warning", "--keep-going", "--nitpicky", "--quiet", "--fresh-env"]
    status: int = build_main([*strict, "--builder", "html", "-d", str(into / ".doctrees"), str(SOURCE), str(into)])
    return status


def shipped() -> dict[Path, str]:
    """The files that are made here and committed, and what should be in them."""
    return {man.FILE: man.page(), **completions.files()}


def stale() -> list[Path]:
    """Shipped files that are not what they should be."""
    return [path for path, text in shipped().items() if not path.exists() or path.read_text(encoding="utf-8") != text]


def main(arguments: list[str]) -> int:
    """Build the site, or make the shipped files."""
    parser = argparse.ArgumentParser(
        prog="python -m ci.docs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("into", nargs="?", type=Path, default=ROOT / "build" / "docs", metavar="DIRECTORY")
    parser.add_argument("--shipped", action="store_true", help="write the man page and the completions, and no site")
    chosen = parser.parse_args(arguments)
    old = stale()
    if chosen.shipped:
        for path in old:
            path.parent.mkdir(exist_ok=True)
            path.write_text(shipped()[path], encoding="utf-8")
            print(f"written: {path.relative_to(ROOT)}")
        return 0
    status = build(chosen.into)
    print(f"{chosen.into / 'index.html'}: {'0 warnings' if status == 0 else 'there are warnings'}")
    for path in old:
        print(f"{path.relative_to(ROOT)} is out of date: run python -m ci.docs --shipped", file=sys.stderr)
    return status or bool(old)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
