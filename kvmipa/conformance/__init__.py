# SPDX-License-Identifier: Apache-2.0
"""The conformance run: what the kernel's API document promises about the IPA size, checked on any KVM.

claim.py says what a claim is, claims/ has them all with their checks, target.py is what a check talks to, runner.py
runs them, results.py is what came of it, and reports/ is how that is shown.
"""
