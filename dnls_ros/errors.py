"""The one error type that user mistakes raise, importable from every layer.

A message says what is wrong, where (which group, file or parameter by name), what was got, what
was expected and what to do. ``assert`` is kept for our own invariants.
"""


class DnlsError(ValueError):
    """A mistake in what the caller supplied; the message says what, where, and what to do."""


class UnavailableError(DnlsError):
    """Something asked for by name (a solver, a device, a library) is absent on this machine."""


class UnreadableInputError(DnlsError):
    """A recording or file that is missing, truncated, empty or not of the kind its name says."""


class DnlsWarning(UserWarning):
    """Something that works, but probably not as it was meant; the message says why."""
