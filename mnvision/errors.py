"""The errors that a user can cause; this module imports nothing, so a typo is answered before torch is loaded."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input: one message that says what, where, got, expected and what to do; shown without a traceback."""


class ConfigError(UserError):
    """The configuration is wrong: one message that lists every problem found in it."""
