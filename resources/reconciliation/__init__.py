"""Read Stripe back and compare it with the invoices here, kept as it was found; bills that are known in advance."""
