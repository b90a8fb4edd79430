# SPDX-License-Identifier: Apache-2.0
"""``kvmipa plan``."""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from kvmipa.cli.plan import STRATEGY_NAMES
from kvmipa.layout import STRATEGIES

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Command

GIB = 1 << 30


def test_names_of_strategies_are_those_there_are() -> None:
    assert set(STRATEGY_NAMES) == set(STRATEGIES)


def test_what_does_not_fit_is_explained(kvmipa: Command) -> None:
    shown = kvmipa("plan", "--ram", "64G", "--limit", "36")
    assert (shown.status, shown.err) == (1, "")
    assert shown.out.splitlines()[:15] == [
        "LIMIT          36 bits, as given",
        "IPA limit      36 bits (64 GiB), 4K pages",
        "smallest size  37 bits (128 GiB): does not fit, 1 bit above what the host makes",
        "does not fit   ram (ram, 64 GiB): ends 1 GiB beyond 2^36",
        "largest RAM    63 GiB from 0x40000000 up to the limit",
        "default size   type 0 is refused: it means 40 bits, and the limit is 36",
        "",
        "the map, highest address first:",
        "0x1040000000  +-----------------------+",
        "              | ram, goes on    1 GiB |",
        "0x1000000000  +-----------------------+  2^36: the host's limit",
        "              | ram            63 GiB |",
        "0x40000000    +-----------------------+",
        "              | free            1 GiB |",
        "0x0           +-----------------------+",
    ]


def test_how_much_memory_a_host_holds(kvmipa: Command) -> None:
    shown = kvmipa("plan", "--limit", "36")
    assert shown.status == 0
    assert shown.rows["RAM"] == "not given: as much as fits"
    assert shown.rows["largest RAM"] == "63 GiB from 0x40000000 up to the limit"
    found = kvmipa("--json", "plan", "--limit", "36").json
    assert (found["ram_given"], found["largest_ram"]["size"]) == (False, 63 * GIB)
    largest = {name: entry["largest_ram"] / GIB for name, entry in found["strategies"].items()}
    assert largest["qemu-virt"] == 63
    assert largest["qemu-virt-highmem-off"] == 3
    assert largest["kvmtool"] == largest["firecracker"] == 62
    assert largest["default"] == 0
    # Each of them chooses for what it can hold.
    assert all(entry["works"] for name, entry in found["strategies"].items() if name != "default")


def test_tables_of_strategies_and_sizes(kvmipa: Command) -> None:
    out = kvmipa("plan", "--ram", "1000G", "--limit", "40").out
    assert "what VMMs choose for 1000 GiB of RAM:\n" in out
    assert "qemu-virt              40 bits  0x28  1023 GiB     works; without pcie-window\n" in out
    assert "stage 2 by size, with 1000 GiB of memory mapped:\n" in out
    out = kvmipa("plan", "--ram", "64G", "--limit", "48", "--page-size", "16k").out
    assert "\n37 bits  2       2            2 (32 KiB)   " in out
    assert "\n48 bits  3       1            2 (32 KiB)   " in out
    assert "\none bit more: 4 tables at the start level and not 2; 32 KiB more for tables; and on Linux 7.3" in out
    assert "one bit more: the tables stay as they are; and" in kvmipa("plan", "--ram", "64G", "--limit", "48").out


def test_one_strategy_is_drawn_and_decides_the_status(kvmipa: Command) -> None:
    shown = kvmipa("plan", "--ram", "1000G", "--limit", "44", "--strategy", "qemu-virt")
    assert shown.status == 0
    assert "\nthe map of qemu-virt, highest address first:\n" in shown.out
    assert "pcie-window (device)" in shown.out
    assert shown.rows["rule"].startswith("qemu-virt (QEMU, machine virt): RAM from 1 GiB")
    assert "kvmtool" not in shown.out
    assert kvmipa("plan", "--ram", "64G", "--limit", "48", "--strategy", "qemu-virt-highmem-off").status == 1
    assert kvmipa("plan", "--ram", "64G", "--limit", "48", "--strategy", "all").status == 0


@pytest.mark.parametrize(
    ("host", "limit", "page_size", "default"),
    [("wide", 52, 4096, True), ("middle", 44, 4096, True), ("narrow", 36, 16384, False), ("old", None, 4096, True)],
)
def test_host_is_asked(kvmipa: Command, host: str, limit: int | None, page_size: int, default: bool) -> None:
    found = kvmipa("--host", host, "--json", "plan", "--ram", "1G").json
    assert found["reality"] == "EMULATED"
    assert (found["host_ipa_limit"], found["page_size"]) == (limit, page_size)
    assert found["default"] == {"made": default, "works": default}
    assert found["kernel"]["0x0"] == ("ok" if default else "EINVAL")
    assert found["machine_type"] == ("0x0" if limit is None else "0x20")
    assert found["kernel"][found["machine_type"]] == "ok"


def test_first_line_says_which_host(kvmipa: Command) -> None:
    shown = kvmipa("--host", "middle", "plan", "--ram", "1G")
    assert shown.out.startswith("EMULATED          middle: Linux 6.12, 4K pages, mode vhe\n")
    assert shown.rows["asked the kernel"] == "KVM_CREATE_VM(0x0): ok; KVM_CREATE_VM(0x20): ok"


def test_kernel_without_the_choice(kvmipa: Command) -> None:
    shown = kvmipa("--host", "old", "plan", "--ram", "64G")
    assert shown.status == 0
    assert shown.rows["IPA limit"] == "not configurable: every VM has 40 bits (1 TiB), 4K pages"
    assert shown.rows["smallest size"] == "37 bits (128 GiB); the kernel makes 40 bits, machine type 0"
    assert "takes no memory slot that ends" in shown.rows["last page"]
    # Such a kernel keeps the last page free.
    found = kvmipa("--host", "old", "--json", "plan").json
    assert found["largest_ram"]["size"] == 1023 * GIB - 4096
    assert kvmipa("--host", "old", "plan", "--ram", "1023G").status == 1
    assert kvmipa("plan", "--limit", "0", "--ram", "1023G").status == 0
    assert kvmipa("plan", "--limit", "0", "--ram", "1024G").status == 1


def test_pkvm_host_gives_every_vm_its_limit(kvmipa: Command) -> None:
    shown = kvmipa("--host", "pkvm", "plan", "--ram", "1G")
    assert shown.status == 0
    assert "gives every VM its limit" in shown.rows["pKVM"]


def test_devices_count_and_bound_the_ram(kvmipa: Command) -> None:
    words = ("plan", "--ram", "1G", "--device", "window@512G+512G", "--device", "uart@0x9000000+4K", "--limit")
    found = kvmipa("--json", *words, "44").json
    assert (found["ipa_bits"], found["largest_ram"]["size"], found["largest_ram"]["bounded_by"]) == (
        40,
        511 * GIB,
        "window",
    )
    shown = kvmipa(*words, "36")
    assert shown.status == 1
    assert shown.rows["does not fit"].endswith("lies beyond it wholly; it ends 960 GiB beyond 2^36")


def test_largest_ram_is_of_the_whole_map(kvmipa: Command) -> None:
    def largest(*words: str) -> dict[str, float]:
        found = kvmipa("--json", "plan", "--ram", "1G", *words).json["strategies"]
        return {name: entry["largest_ram"] / GIB for name, entry in found.items()}

    # A window bounds the RAM of rules that take the map as it is; those with a map of their own do not know of it.
    bounded = largest("--device", "window@16G+1G", "--limit", "40")
    assert bounded["minimum"] == bounded["host-maximum"] == bounded["default"] == 15
    assert bounded["qemu-virt"] == 1023
    # Beyond the limit, no amount of RAM makes the map fit.
    beyond = largest("--device", "window@64G+1G", "--limit", "36")
    assert beyond["minimum"] == beyond["host-maximum"] == 0
    assert beyond["qemu-virt"] == 63


def test_one_bit_more_with_one_table(kvmipa: Command) -> None:
    out = kvmipa("plan", "--ram", "13G", "--limit", "40").out
    assert "one bit more: a walk of 3 levels and not 2; 1 table at the start level and not 16;" in out


def test_map_of_thousands_of_regions_is_drawn(kvmipa: Command, tmp_path: Path) -> None:
    regions = [{"name": f"r{number}", "base": number << 13, "size": 4096} for number in range(4000)]
    shown = kvmipa("plan", "--map", written(tmp_path / "map.json", json.dumps({"regions": regions})), "--limit", "40")
    assert shown.status == 0
    assert shown.out.count("| free ") == 4000 + 1


def test_option_device_before_the_command_is_the_kvm_device(kvmipa: Command) -> None:
    shown = kvmipa("--host", "wide", "--device", "/nowhere", "plan")
    assert (shown.status, "DeviceNotFound" in shown.err or "/nowhere" in shown.err) == (3, True)
    shown = kvmipa("plan", "--device", "/dev/kvm", "--limit", "40")
    assert shown.status == 2
    assert "the KVM device's path stands before the command" in shown.err


def test_huge_ram_is_set_in_several_slots(kvmipa: Command) -> None:
    shown = kvmipa("plan", "--ram", "20T", "--limit", "48")
    assert shown.rows["memory slots"].startswith("6: KVM takes slots of less than 2^31 pages")
    slots = kvmipa("--json", "plan", "--ram", "20T", "--limit", "48").json["memory_slots"]
    assert sum(slot["size"] for slot in slots) == 20 << 40


def test_size_that_no_host_makes(kvmipa: Command) -> None:
    shown = kvmipa("plan", "--ram", "8P", "--limit", "52")
    assert shown.status == 1
    assert "no arm64 host makes such a VM" in shown.rows["smallest size"]
    assert kvmipa("plan", "--ram", "15E", "--limit", "52").status == 1


DOCUMENT = {
    "regions": [
        {"name": "ram", "base": "1G", "size": "64G", "kind": "ram"},
        {"name": "flash", "base": 0, "size": "128M", "kind": "rom"},
        {"name": "window", "base": "512G", "size": "512G", "kind": "device"},
    ]
}
TOML = """\
[[regions]]
name = "ram"
base = "1G"
size = "64G"
[[regions]]
name = "flash"
base = 0
size = "128M"
kind = "rom"
[[regions]]
name = "window"
base = "512G"
size = "512G"
kind = "device"
"""


def written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_map_is_read_from_json_toml_and_standard_input(
    kvmipa: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = json.dumps(DOCUMENT)
    names = [written(tmp_path / "map.json", text), "-"]
    if sys.version_info >= (3, 11):
        names.append(written(tmp_path / "map.toml", TOML))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    answers = [kvmipa("--json", "plan", "--map", name, "--limit", "48") for name in names]
    assert [answer.status for answer in answers] == [0] * len(names)
    assert all(answer.json == answers[0].json for answer in answers)
    assert answers[0].json["ipa_bits"] == 40
    assert [region["name"] for region in answers[0].json["regions"]] == ["flash", "ram", "window"]


def test_map_of_devices_is_filled_with_ram(kvmipa: Command, tmp_path: Path) -> None:
    name = written(tmp_path / "map.json", json.dumps({"regions": DOCUMENT["regions"][1:]}))
    found = kvmipa("--json", "plan", "--map", name, "--ram-base", "4G", "--limit", "48").json
    assert (found["ram_given"], found["largest_ram"]["size"]) == (False, 508 * GIB)
    found = kvmipa("--json", "plan", "--map", name, "--ram", "8G", "--limit", "48").json
    assert (found["ram_given"], found["ipa_bits"]) == (True, 40)


def test_toml_needs_a_python_that_reads_it(kvmipa: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tomllib", None)
    shown = kvmipa("plan", "--map", written(tmp_path / "map.toml", TOML), "--limit", "48")
    assert shown.status == 2
    assert shown.err.endswith("map.toml: reading TOML needs Python 3.11; write the map as JSON\n")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "no JSON: Expecting value: line 1 column 1"),
        ('{"regions": [', "no JSON: Expecting value: line 1 column 14"),
        ("[" * 100_000, "no JSON: "),
        ("[]", "a table with regions is wanted, not []"),
        ('{"regions": []}', "the memory map is empty"),
        ('{"regions": [{"name": "ram", "base": 0, "size": "1G", "colour": "red"}]}', "no key colour; there are name"),
        ('{"ram": "1G"}', "the memory map: no key ram; there are regions"),
        ('{"regions": [{"name": "ram", "base": 0, "size": "64Q"}]}', "no unit 'Q'; there are K, M, G, T, P or E"),
        ('{"regions": [{"name": "ram", "base": 0, "size": 0}]}', "region ram: size 0 bytes"),
        ('{"regions": [{"name": "ram", "base": 0, "size": %s}]}' % ("9" * 5000), "no JSON: "),
        (
            '{"regions": [{"name": "a", "base": 0, "size": "2G"}, {"name": "b", "base": "1G", "size": "2G"}]}',
            "a (0x0..0x7fffffff) and b (0x40000000..0xbfffffff) overlap by 1 GiB",
        ),
    ],
)
def test_file_that_is_no_map_is_wrong_usage(kvmipa: Command, tmp_path: Path, content: str, why: str) -> None:
    name = written(tmp_path / "map.json", content)
    shown = kvmipa("plan", "--map", name, "--limit", "40")
    assert (shown.status, shown.out) == (2, "")
    assert shown.err.startswith(f"kvmipa: {name}: ")
    assert why in shown.err


def test_file_that_cannot_be_read_is_wrong_usage(kvmipa: Command, tmp_path: Path) -> None:
    assert "No such file" in kvmipa("plan", "--map", str(tmp_path / "none.json")).err
    shown = kvmipa("plan", "--map", str(tmp_path))
    assert (shown.status, "Is a directory" in shown.err) == (2, True)
    binary = tmp_path / "map.json"
    binary.write_bytes(b"\xff\xfe\x00")
    shown = kvmipa("plan", "--map", str(binary))
    assert (shown.status, "no JSON: " in shown.err) == (2, True)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="no TOML")
def test_file_that_is_no_toml_is_wrong_usage(kvmipa: Command, tmp_path: Path) -> None:
    shown = kvmipa("plan", "--map", written(tmp_path / "map.toml", "[[regions"), "--limit", "40")
    assert (shown.status, "map.toml: no TOML: " in shown.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--ram", "64Q"], "--ram '64Q': no unit 'Q'; there are K, M, G, T, P or E"),
        (["--ram", "64GB"], "write G or GiB"),
        (["--ram", ""], "--ram '': no number"),
        (["--ram", "\N{ARABIC-INDIC DIGIT THREE}G"], "no number"),
        (["--map", ""], "--map: a file without a name"),
        (["--map", "/dev/zero"], "/dev/zero: larger than 1 MiB"),
        (["--ram", "1G", "--device", "a\x1b[31m@8G+1G"], "region 'a\\x1b[31m': its name has characters that"),
        (["--ram", "1G", "--device", "\udcff@8G+1G"], "region '\\udcff': its name has characters that"),
        (["--ram", "0"], "region ram: size 0 bytes"),
        (["--ram=-1G"], "--ram '-1G': is negative"),
        (["--ram", "1000"], "region ram: its size 0x3e8 is not a multiple of the page size, 4K"),
        (["--ram", "1G", "--ram-base", "0x100"], "its base 0x100 is not a multiple of the page size"),
        (["--ram", "16E"], "region ram: ends 1 GiB beyond 64 bits of address"),
        (["--ram", "1G", "--ram-base", "here"], "--ram-base 'here': no"),
        (["--ram-base", "1T"], "no room for RAM at 0x10000000000: the host's addresses end at 2^40"),
        (["--ram", "1G", "--device", "uart@1G"], "it is written name@base+size"),
        (["--ram", "1G", "--device", "uart"], "it is written name@base+size"),
        (["--ram", "1G", "--device", "uart@x+4K"], "device uart: base 'x': no"),
        (["--ram", "1G", "--device", "uart@0+0"], "region uart: size 0 bytes"),
        (["--ram", "1G", "--device", "w@1.5G+1G"], "ram (0x40000000..0x7fffffff) and w (0x60000000..0x9fffffff)"),
        (["--ram", "1G", "--device", "ram@2G+1G"], "two regions are named ram"),
        (["--limit", "31"], "an IPA limit of 31 bits: arm64 hosts have 32 to 52"),
        (["--limit", "65"], "an IPA limit of 65 bits"),
        (["--limit", "-1"], "an IPA limit of -1 bits"),
        (["--limit", "forty"], "invalid int value: 'forty'"),
        (["--page-size", "8K"], "page size 8192 bytes: arm64 has 4K, 16K, 64K"),
        (["--page-size", "0"], "page size 0 bytes: arm64 has 4K, 16K, 64K"),
        (["--strategy", "xen"], "invalid choice: 'xen'"),
        (["--host", "wide"], "--host and --backend are for asking a KVM instead"),
        (["--backend", "native"], "--host and --backend are for asking a KVM instead"),
    ],
)
def test_bad_input_is_wrong_usage_with_the_reason(kvmipa: Command, words: list[str], why: str) -> None:
    given = words if "--limit" in words else ["--limit", "40", *words]
    shown = kvmipa("plan", *given)
    assert (shown.status, shown.out) == (2, "")
    assert why in shown.err


def test_page_size_is_the_hosts_own(kvmipa: Command) -> None:
    shown = kvmipa("--host", "narrow", "plan", "--page-size", "4K")
    assert shown.status == 2
    assert "--page-size goes with --limit" in shown.err
    shown = kvmipa("--host", "narrow", "plan", "--ram", "4K")
    assert (shown.status, "the page size, 16K" in shown.err) == (2, True)


def test_base_without_ram_is_refused_where_the_map_has_ram(kvmipa: Command, tmp_path: Path) -> None:
    name = written(tmp_path / "map.json", json.dumps(DOCUMENT))
    shown = kvmipa("plan", "--map", name, "--ram-base", "2G", "--limit", "48")
    assert (shown.status, "the map has RAM of its own" in shown.err) == (2, True)


def test_errors_are_json_where_json_is_expected(kvmipa: Command) -> None:
    found: dict[str, Any] = kvmipa("--json", "plan", "--ram", "64Q", "--limit", "40").json
    assert found["error"]["class"] == "LayoutError"


def test_host_without_kvm_is_unavailable(kvmipa: Command) -> None:
    assert kvmipa("--host", "off", "plan", "--ram", "1G").status == 3


def test_help_teaches(kvmipa: Command) -> None:
    out = kvmipa("plan", "--help").out
    assert "kvmipa plan --limit 36" in out
    assert '{"regions": [{"name": "flash"' in out
    assert all(name in out for name in STRATEGIES)
