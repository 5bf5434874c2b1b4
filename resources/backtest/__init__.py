"""Backtests in PostgreSQL: a draft catalog rated over stored usage by the production code, beside what is booked.

Not here: holding both sides against each other (billing_pipeline.backtest), rating (charge_usage).
"""
