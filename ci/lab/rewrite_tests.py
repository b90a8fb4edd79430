# SPDX-License-Identifier: Apache-2.0
"""Compiles test modules as pytest does, with their assertions rewritten.

Run as a program with the guest's pytest, from a zip file, and nothing else to import. Reads and writes dictionaries of
path to contents, in the format of marshal: the sources, and pytest's cache files.
"""

from __future__ import annotations

import ast
import importlib.util
import marshal
import sys
from pathlib import PurePosixPath


def main() -> None:
    """Compile what is on standard input."""
    sys.path.insert(0, sys.argv[1])
    from _pytest.assertion.rewrite import PYC_TAIL, rewrite_asserts

    compiled = {}
    for name, source in marshal.load(sys.stdin.buffer).items():
        path = PurePosixPath(name)
        try:
            tree = ast.parse(source, f"/{path}")
        except SyntaxError:
            # The guest's pytest says so, where it is seen.
            continue
        rewrite_asserts(tree, source, f"/{path}")
        code = compile(tree, f"/{path}", "exec", dont_inherit=True)
        compiled[str(path.parent / "__pycache__" / (path.stem + PYC_TAIL))] = _header(source) + marshal.dumps(code)
    marshal.dump(compiled, sys.stdout.buffer)


def _header(source: bytes) -> bytes:
    # pytest compares modification time and size; in a cpio archive of the lab all files are of 1970.
    flags = modified = 0
    numbers = (flags, modified, len(source))
    return importlib.util.MAGIC_NUMBER + b"".join(number.to_bytes(4, "little") for number in numbers)


if __name__ == "__main__":
    main()
