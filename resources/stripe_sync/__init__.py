"""Bring invoices to Stripe: intents before calls, read-back after them, one customer at a time. See docs/stripe.md."""
