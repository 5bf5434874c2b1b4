"""What the columns of each asset's table mean, with units: shown on the asset's page, under Columns.

Descriptions follow docs/architecture.md and the migrations; a test compares names with the tables. Not here: rows.
"""

import dagster as dg


def _schema(*columns: tuple[str, str, str]) -> dg.TableSchema:
    return dg.TableSchema(
        columns=[dg.TableColumn(name, kind, description=description) for name, kind, description in columns]
    )


REQUEST_RECORDS = _schema(
    ("source", "varchar", "Source name in sources.toml."),
    ("event_id", "varchar", "Identity within the source; file digest and line number where the log has none."),
    ("event_at", "timestamp", "When the request happened: UTC, microseconds."),
    ("client_id", "varchar", "Caller; pseudonymised where the profile says that it is personal data."),
    ("method", "varchar", "HTTP method, upper case."),
    ("endpoint", "varchar", "Path template, or `unmatched`; never the raw path."),
    ("status_code", "smallint", "HTTP status, 100 to 599."),
    ("response_time_us", "bigint", "Response time in microseconds, exact. Null: the log does not say."),
    ("response_bytes", "bigint", "Response size in bytes. Null: the log does not say."),
    ("is_simulated", "boolean", "Not a real subject: never billed."),
    ("file_id", "bigint", "The delivered file, core.source_file."),
    ("line_number", "bigint", "Line (JSON lines) or record (Avro) in that file, from 1."),
)

API_REQUESTS = _schema(
    ("event_day", "date", "UTC day on which the requests happened; the partition."),
    ("account_id", "text", "Who pays."),
    ("meter_id", "text", "What is measured."),
    (
        "period_start",
        "timestamptz",
        "Start of the window, inside it: an hour, or the part up to a subscription's boundary.",
    ),
    ("period_end", "timestamptz", "End of the window, outside it."),
    ("endpoint", "text", "Path template."),
    ("method", "text", "HTTP method."),
    ("client_id", "text", "Caller."),
    (
        "quantity",
        "numeric(38,9)",
        "Amount in `unit`. Counts and sums add up over rows; other aggregations need `state`.",
    ),
    ("unit", "text", "Unit of `quantity`, as the meter says."),
    ("request_count", "bigint", "Billable requests in the row."),
    ("state", "jsonb", "What can be merged, for unique, percentile and latest meters. Null: the quantity is enough."),
)

CHARGES = _schema(
    ("charge_id", "uuid", "Identity of (subscription, price, billing period, group)."),
    ("revision", "integer", "From 1; each books the difference to what was booked before."),
    ("account_id", "text", "Who pays."),
    ("subscription_id", "text", "Which subscription."),
    ("plan_id", "text", "Its plan."),
    ("price_id", "text", "Which price of the plan."),
    ("meter_id", "text", "What is measured. Null: a fee without usage."),
    ("group_key", "text", "Value of the price's grouping; empty without one."),
    ("period_start", "timestamptz", "Start of the billing period, inside it."),
    ("period_end", "timestamptz", "End of the billing period, outside it."),
    ("quantity", "numeric(38,12)", "Quantity of the period to date, in `unit`."),
    ("unit", "text", "Unit of `quantity`."),
    ("exact_amount", "numeric(38,12)", "Total of the period to date before rounding, in `currency`."),
    ("amount_minor", "bigint", "Total of the period to date, rounded, in minor units of `currency` (cents)."),
    ("delta_minor", "bigint", "What this revision adds, in minor units of `currency`."),
    ("currency", "text", "ISO 4217."),
    ("lines", "jsonb", "The arithmetic: price version, tier, quantity, unit price, amount."),
    ("rating_digest", "text", "Digest of what was rated: quantities, prices, arithmetic."),
    ("catalog_sha256", "text", "Which catalog it was rated with."),
    ("code_version", "text", "Which code rated it."),
    ("event_day", "date", "The day whose run booked it; the partition."),
    ("run_id", "text", "The run that booked it."),
    ("booked_at", "timestamptz", "When it was booked."),
)

LEDGER = _schema(
    ("transaction_id", "uuid", "One per charge revision that has a difference."),
    ("posting_number", "smallint", "From 1 within the transaction."),
    ("ledger_account", "text", "Receivable or revenue account."),
    ("account_id", "text", "Whose charge it is."),
    ("amount_minor", "bigint", "Minor units of `currency`; a transaction's postings sum to 0."),
    ("currency", "text", "ISO 4217."),
    ("charge_id", "uuid", "The charge."),
    ("revision", "integer", "Its revision."),
    ("event_day", "date", "The day whose run booked it; the partition."),
    ("booked_at", "timestamptz", "When it was booked."),
)

PRICES = _schema(
    ("price_id", "text", "Identity of the price."),
    ("version", "integer", "Version of the price, from 1."),
    ("meter_id", "text", "What it prices. Null: a fee without usage."),
    ("model", "text", "How a quantity becomes an amount: standard, graduated, volume, package, flat fee."),
    ("currency", "text", "ISO 4217."),
    ("effective_from", "timestamptz", "First instant at which usage costs this."),
    ("effective_to", "timestamptz", "First instant at which it no longer does. Null: open."),
    ("content_sha256", "text", "Digest of the version's text in the catalog."),
)

SUBSCRIPTIONS = _schema(
    ("subscription_id", "text", "Identity of the subscription."),
    ("account_id", "text", "Who pays."),
    ("plan_id", "text", "Which plan."),
    ("starts_at", "timestamptz", "First instant of the subscription; the anchor of its billing periods."),
    ("ends_at", "timestamptz", "First instant after it. Null: open."),
)
