# SPDX-License-Identifier: Apache-2.0
"""The errors that the lab raises, each with what to do about it in its text."""


class LabError(Exception):
    """The lab could not do what was asked; the message says why."""


class GuestTimeoutError(LabError):
    """The guest did not finish in the time that it was given."""
