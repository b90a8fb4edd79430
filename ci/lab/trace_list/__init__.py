# SPDX-License-Identifier: Apache-2.0
"""What the traces of real kernels consist of, a module per subject."""
