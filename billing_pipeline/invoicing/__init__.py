"""Invoicing: what is booked and what people add -> invoices of accounts and periods. Pure. See docs/invoicing.md.

`items` are the lines and their identity, `compile` makes invoices of them, `states` says what may become of one,
`stripe_amounts` what Stripe can charge, `policy` what catalog/invoicing.toml decides. Not here: keeping any of it
(resources/invoicing), sending it (stripe_sync).
"""
