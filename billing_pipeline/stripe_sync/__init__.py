"""Bring what is owed to Stripe: desired items against held ones -> the fewest commands. Pure; the calls are in resources/."""
