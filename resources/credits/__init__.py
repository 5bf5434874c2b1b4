"""Credits in PostgreSQL: grants, what they pay of invoices, what expires; each booked in the ledger.

Not here: the rules (billing_pipeline.credits), lines of invoices (billing_pipeline.invoicing).
"""
