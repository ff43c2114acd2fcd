"""What differs between the Pythons that we run on. Nothing else asks for the version."""

import sys

__all__ = ["HAS_INTERPRETERS"]

HAS_INTERPRETERS = sys.version_info >= (3, 13)
"""Interpreters can work beside each other. 3.12 has them too, but crashes when one of them is the
first to import some modules of its library."""
