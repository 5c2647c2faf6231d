"""The entry point: settings, wiring, staged start and stop."""

__version__ = "0.1.0"
