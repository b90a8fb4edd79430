# SPDX-License-Identifier: Apache-2.0
"""The guest conformance program on a real kernel; runs there: ``python3 -m ci.lab.transcript_recorder FILE HEADER``.

FILE takes the transcripts of VMs of several sizes. HEADER is a JSON object of what only the outside knows.
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

import kvmipa
from ci.lab.access_recorder import sizes
from kvmipa.payload import run_payload, transcript
from kvmipa.recording import profile_as_json


def main(path: str, header_text: str) -> None:
    """Run the guests, and write the transcripts."""
    with kvmipa.open("native") as kvm:
        profile = kvmipa.HostProfile.of(kvm)
        header = {
            "release": platform.release(),
            **json.loads(header_text),
            "profile": profile_as_json(profile),
        }
        asked = sizes(kvm.host_ipa_limit or 40, platform.release(), profile.page_size)
        transcript.write(Path(path), header, [run_payload(kvm, ipa_bits) for ipa_bits in asked])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
