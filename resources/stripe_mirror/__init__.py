"""What Stripe holds, mirrored in PostgreSQL: an inbox of events, the objects fetched again, reads that survive an outage."""
