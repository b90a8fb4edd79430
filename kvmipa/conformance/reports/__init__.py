# SPDX-License-Identifier: Apache-2.0
"""The forms of a report: a module for each, whose function of the same name makes text of a Report.

They are pure: nothing is asked of a kernel or written anywhere.
"""
