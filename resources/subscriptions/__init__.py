"""Subscriptions beside the catalog's files: where they come from, what was taken in, what waits."""
