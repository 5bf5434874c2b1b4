"""What Stripe tells: events and objects as JSON -> frozen records, and what each of them means for the bill. Pure.

`envelope`: an event -> which object it is about. `objects`: Stripe's objects -> records without personal data. `effects`: an
invoice as it stands -> what is to be done about it. Not here: fetching and keeping any of it (resources/stripe_mirror),
what is sent to Stripe (stripe_sync).
"""
