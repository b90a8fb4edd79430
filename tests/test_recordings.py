# SPDX-License-Identifier: Apache-2.0
"""Every recording of a real kernel, replayed on the emulation of the same host: no difference is allowed."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from kvmipa import HostProfile, abi
from kvmipa.backend.emulated import EmulatedBackend
from kvmipa.recording import Observation, Recording, differences, record

RECORDINGS = sorted((Path(__file__).parent / "data" / "recordings").glob("*.jsonl"))


def name_of(path: object) -> str:
    """A recording's name; pytest asks it of its own placeholder too, where there are no recordings."""
    return path.stem if isinstance(path, Path) else "none"


def read(path: Path) -> Recording:
    with path.open() as file:
        return Recording.read(file)


@pytest.mark.parametrize("path", RECORDINGS, ids=name_of)
def test_emulation_answers_as_the_real_kernel_did(path: Path) -> None:
    recording = read(path)
    assert list(differences(recording, EmulatedBackend(recording.profile))) == []


@pytest.mark.parametrize("path", RECORDINGS, ids=name_of)
def test_recording_covers_what_the_lab_asks(path: Path) -> None:
    observations = read(path).observations
    on_system = {seen.argument for seen in observations if seen.ioctl == "KVM_CREATE_VM" and seen.machine_type is None}
    caps = [(seen.machine_type is None, seen.argument) for seen in observations if seen.ioctl == "KVM_CHECK_EXTENSION"]
    assert set(range(0x200)) | {1 << bit for bit in range(8, 64)} <= on_system
    assert {(fd, cap) for fd in (True, False) for cap in range(301)} <= set(caps)


def preset_of(recording: Recording) -> str:
    """The name of the preset that is the recorded machine."""
    kernel, cpu, mode = (recording.header["lab"][name] for name in ("kernel", "cpu", "mode"))
    release, _, pages = kernel.removesuffix("-lab").partition("-")
    return f"qemu-{cpu}-{release}-{pages or '4k'}" + ("-pkvm" if mode == "protected" else "")


@pytest.mark.parametrize("path", RECORDINGS, ids=name_of)
def test_preset_answers_as_the_machine_that_it_is_named_for(path: Path) -> None:
    recording = read(path)
    preset = HostProfile.presets().get(preset_of(recording))
    if preset is None or recording.header["lab"]["mode"] == "nvhe":
        assert recording.header["lab"]["mode"] != "default"
        return
    assert list(differences(recording, EmulatedBackend(preset))) == []


def test_recordings_are_of_every_kernel_and_limit() -> None:
    found = {(read(path).header["lab"]["kernel"], read(path).profile.ipa_limit) for path in RECORDINGS}
    kernels = {kernel for kernel, _ in found}
    assert kernels == {"5.10", "6.1", "6.12", "6.12-16k", "6.12-64k-lab", "7.3", "7.3-16k"}
    # 16K kernels boot on few of QEMU's CPUs; 52 bits need LPA2, which KVM has used since 6.8.
    expected = {"5.10": {40, 44, 48}, "6.1": {40, 44, 48}, "6.12": {40, 44, 48, 52}, "7.3": {40, 44, 48, 52}}
    expected |= {"6.12-16k": {40, 48, 52}, "7.3-16k": {40, 48, 52}, "6.12-64k-lab": {40, 44, 48, 52}}
    for kernel in kernels:
        assert {limit for name, limit in found if name == kernel} == expected[kernel]


def test_difference_is_found() -> None:
    recording = read(RECORDINGS[0])
    other = Recording(recording.header, (Observation("KVM_GET_API_VERSION", result=13),))
    assert list(differences(other, EmulatedBackend(recording.profile))) == [(other.observations[0], 12)]


def test_what_is_written_is_read_again() -> None:
    recording = read(RECORDINGS[0])
    file = io.StringIO()
    recording.write(file)
    assert Recording.read(file.getvalue().splitlines()) == recording


def test_other_formats_are_refused() -> None:
    with pytest.raises(ValueError, match="format 1"):
        Recording.read(['{"kvmipa_recording": 2}'])


def test_vm_observations_are_asked_of_a_vm_of_their_type() -> None:
    backend = EmulatedBackend(read(RECORDINGS[0]).profile)
    question = Observation("KVM_CHECK_EXTENSION", abi.KVM_CAP_MSI_DEVID)
    on_vm = Observation("KVM_CHECK_EXTENSION", abi.KVM_CAP_MSI_DEVID, machine_type=32)
    assert [seen.result for seen in record(backend, [question, on_vm])] == [-22, 0]
