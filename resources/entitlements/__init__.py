"""Entitlements in PostgreSQL: allowances of the current catalog, access decisions in one query, thresholds that were passed.

Not here: the rules (billing_pipeline.entitlements).
"""
