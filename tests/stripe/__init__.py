"""Stripe as an acquirer: against localstripe in a process of its own, and against scripted answers."""
