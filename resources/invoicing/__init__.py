"""Invoices in PostgreSQL (schema `invoicing`): compile, show, finalize; what people add, and their postings.

The rules are in billing_pipeline.invoicing; here is reading, writing, locking. See docs/invoicing.md.
"""
