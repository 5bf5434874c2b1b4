"""The one way to Stripe: calls with time limits, pace and patience over stripe-python; nobody else imports it."""
