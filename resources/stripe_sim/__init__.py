"""A stand-in for Stripe's API, for tests and the demo: the real stripe-python talks to it over sockets. See docs/stripe-sim.md."""
