"""The project's typed errors: every one names the value, what was expected, and what to do next.

`PermanentError` fails the same way on every try and is never retried; `TransientError` may pass on the next one.
"""


class MlopsError(Exception):
    """Base of everything this project raises on purpose."""


class PermanentError(MlopsError):
    """A second try would fail the same way: bad input, bad settings, a refused gate."""


class TransientError(MlopsError):
    """The next try may pass: a lock held, a store that does not answer."""


class SettingsError(PermanentError):
    """An environment variable or run-config value is unknown or invalid."""


class InputError(PermanentError):
    """A user's input (file, table, row) cannot be used."""


class AccessDeniedError(PermanentError):
    """Somebody may not do what they asked for; the message names who holds the permission."""


class NotReadyError(PermanentError):
    """A step was asked for before what it reads exists; the message names the step to run first."""


class DataRejectedError(PermanentError):
    """A snapshot did not pass validation, so nothing downstream may read it."""


class StorageError(TransientError):
    """A store refused a write: disk full, read-only, locked."""
