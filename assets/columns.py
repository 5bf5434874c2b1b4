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

TRAFFIC_SAMPLES = _schema(
    ("env", "varchar", "Environment of the node: only those that a meter names are billed."),
    ("node", "varchar", "The exporter's node."),
    ("account_uuid", "varchar", "Whose counter: a uuid in lower case, or a pseudonym."),
    ("inbound_tag", "varchar", "Inbound of the node, or empty."),
    ("collected_at", "timestamp", "When the counters were read: UTC, microseconds."),
    ("uplink_bytes", "bigint", "Bytes up since the counter began, exact."),
    ("downlink_bytes", "bigint", "Bytes down since the counter began, exact."),
    ("uptime_seconds", "bigint", "Uptime of the counting process: tells a restart. Null: not given."),
    ("xray_version", "varchar", "Version of the counting process. Null: not given."),
    ("source", "varchar", "Source name in traffic.toml."),
    ("file_id", "bigint", "The pushed or dropped file, core.source_file. Null: pulled."),
    ("line_number", "bigint", "Place in that file, from 1. Null: pulled."),
)

TRAFFIC = _schema(
    ("event_day", "date", "UTC day of the minutes; the partition."),
    ("account_id", "text", "Who pays."),
    ("meter_id", "text", "What is measured: bytes up, down, or both."),
    ("period_start", "timestamptz", "Start of the hour, or of the part up to a subscription's boundary; inside."),
    ("period_end", "timestamptz", "End of it, outside."),
    ("env", "text", "Environment of the node."),
    ("node", "text", "The exporter's node."),
    ("inbound_tag", "text", "Inbound of the node, or empty."),
    ("quantity", "numeric(38,9)", "Bytes; they add up over rows."),
    ("unit", "text", "byte."),
    ("bucket_count", "bigint", "Minutes with traffic."),
)

STORAGE_SNAPSHOTS = _schema(
    ("source", "varchar", "Source name in storage.toml."),
    ("snapshot_id", "varchar", "Identity of the snapshot within the source."),
    ("snapshot_at", "timestamp", "The instant that it describes: UTC."),
    ("repository", "varchar", "Repository, as the profile reads it out of keys."),
    ("owner", "varchar", "Its owner at that time. Null: the snapshot does not say."),
    ("visibility", "varchar", "public or private. Null: the snapshot does not say."),
    ("bytes", "bigint", "Bytes sold: current versions, or all of them, as the profile says."),
    ("object_count", "bigint", "Objects behind them."),
    ("file_id", "bigint", "The delivered file, core.source_file."),
)

OBJECT_EVENTS = _schema(
    ("source", "varchar", "Source name in storage.toml."),
    ("event_id", "varchar", "CloudTrail's eventID."),
    ("shared_event_id", "varchar", "The same action as delivered to another account. Null: none."),
    ("event_at", "timestamp", "When it happened: UTC, seconds."),
    ("bucket", "varchar", "Bucket in which it happened."),
    ("repository", "varchar", "Repository, as the profile reads it out of the key."),
    ("owner", "varchar", "Owner that the key names. Null: it does not."),
    ("object_id", "varchar", "Digest of bucket and key; the key itself is not kept."),
    ("event_name", "varchar", "S3's name of the call."),
    ("action", "varchar", "What it does to the size; `unsized` waits for the next snapshot."),
    ("bytes", "bigint", "Size where the event carries one."),
    ("upload_id", "varchar", "Multipart upload."),
    ("part_number", "bigint", "Part of it."),
    ("version_id", "varchar", "Object version."),
    ("original_event_id", "varchar", "The event that this one corrects."),
    ("file_id", "bigint", "The delivered file, core.source_file."),
    ("line_number", "bigint", "Record in that file, from 1."),
)

VISIBILITY_EVENTS = _schema(
    ("source", "varchar", "Source name in storage.toml."),
    ("event_id", "varchar", "Identity within the source."),
    ("event_at", "timestamp", "When it happened: UTC."),
    ("repository", "varchar", "Which repository."),
    ("kind", "varchar", "visibility or owner."),
    ("value", "varchar", "public or private; or the new owner."),
    ("file_id", "bigint", "The delivered file, core.source_file."),
    ("line_number", "bigint", "Line in that file, from 1."),
)

STORAGE = _schema(
    ("event_day", "date", "UTC day; the partition."),
    ("account_id", "text", "Who pays: the account of the owner at that time."),
    ("meter_id", "text", "What is measured: private bytes, public bytes, or both."),
    ("period_start", "timestamptz", "Start of the hour, or of the part up to a subscription's boundary; inside."),
    ("period_end", "timestamptz", "End of it, outside."),
    ("quantity", "numeric(38,9)", "Byte-seconds, exact; rating divides by the seconds of the billing period."),
    ("unit", "text", "byte-second."),
    ("repository_count", "bigint", "The most repositories held at one time."),
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
    ("charge_id", "uuid", "The charge. Null: another cause, see below."),
    ("revision", "integer", "Its revision. Null: as above."),
    ("event_day", "date", "The day whose run booked it; the partition."),
    ("booked_at", "timestamptz", "When it was booked."),
    ("prepaid_entry_id", "uuid", "The entry of that beginning balance. Null: a charge's posting."),
    ("adjustment_id", "uuid", "The adjustment of an invoice. Null: another cause."),
    ("one_off_id", "uuid", "The one-off item. Null: another cause."),
    ("credit_note_id", "uuid", "The credit note that a person decided on. Null: another cause."),
    ("credit_entry_id", "uuid", "What a grant of credit was changed by: granted, spent, expired. Null: another cause."),
)

INVOICE_ITEMS = _schema(
    ("invoice_id", "uuid", "The invoice, draft or final."),
    ("item_key", "text", "Identity of the line, 32 hex digits; Stripe keeps it as metadata.bp_key."),
    ("position", "integer", "Place on the invoice, from 1."),
    ("part_of", "text", "The line that groups this one. Null: it stands on the invoice by itself."),
    ("part_count", "integer", "Lines that it groups; 0: it is one line."),
    ("kind", "text", "usage, fee, one_off, adjustment, correction, minimum, credit, other."),
    ("account_id", "text", "Who pays."),
    ("subscription_id", "text", "Which subscription it is for. Null: none."),
    ("source_id", "uuid", "The charge, adjustment or one-off item. Null: made of other lines, or carried."),
    ("charge_id", "uuid", "The charge, where it is the charge's own line."),
    ("corrects", "uuid", "What an earlier invoice charged and this line corrects."),
    ("period_start", "timestamptz", "Start of what it is for, inside; of a correction the old period's."),
    ("period_end", "timestamptz", "End of it, outside."),
    ("amount_minor", "bigint", "Amount in minor units of `currency`, rounded once."),
    ("currency", "text", "ISO 4217."),
    ("description", "text", "What it is, for people."),
    ("quantity_text", "text", "How much, with its unit, for people."),
    ("revision", "integer", "Revision of the charge that it was made of."),
    ("source_digest", "text", "SHA-256 of what it was made of."),
    ("reason", "text", "Why there is a correction or an adjustment."),
    ("by_meter", "boolean", "Goes through Stripe's meter, and is never sent as an item."),
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

ALLOWANCES = _schema(
    ("account_id", "text", "Who may use it."),
    ("feature_id", "text", "What may be used: features.toml."),
    ("valid_from", "timestamptz", "Start of the time in which this holds, inside it."),
    ("valid_to", "timestamptz", "End of that time, outside it."),
    ("feature_type", "text", "boolean, static or metered."),
    ("is_enabled", "boolean", "Whether any source switches it on."),
    ("limit_quantity", "numeric", "Metered: the limit in the meter's unit, all sources added. Null: unlimited."),
    ("beyond", "text", "deny: a hard limit. allow: a soft one, what lies beyond is used and billed."),
    ("static_value", "text", "Static: the text, such as a support level."),
    ("meter_id", "text", "Metered: what is counted."),
    ("aggregation", "text", "Of the meter: count, sum or max."),
    ("reset", "text", "When counting begins anew: period, day (UTC) or never."),
    ("counted_from", "timestamptz", "Start of the window that is counted over; of day windows the billing period's."),
    ("counted_to", "timestamptz", "End of that window, outside it."),
    ("thresholds", "numeric[]", "Percents of the limit that are told of, once each window."),
    ("sources", "text[]", "Ids of the entitlements that add up to this."),
    ("catalog_sha256", "text", "The catalog that says so."),
)

SCENARIOS = _schema(
    ("scenario_id", "uuid", "uuid5 of all inputs: the same inputs are one scenario."),
    ("name", "text", "What it is about."),
    ("draft_sha256", "text", "The draft catalog."),
    ("base_sha256", "text", "The catalog that it was held against."),
    ("first_day", "date", "First day; every billing period that touches the range is rated."),
    ("last_day", "date", "Last day, itself included."),
    ("usage_digest", "text", "SHA-256 of the builds of usage that were rated."),
    ("books_digest", "text", "SHA-256 of the booked charges that were compared with."),
    ("code_version", "text", "The code that rated."),
    ("accounts_concerned", "integer", "Accounts for whom the draft says something else."),
    ("accounts_in_all", "integer", "Accounts of both catalogs."),
    ("charges_rated", "integer", "Charges that were rated with the draft."),
    ("charges_unaffected", "integer", "Charges that it cannot change: they are as they are booked."),
    ("charges_changed", "integer", "Charges whose amount or arithmetic differs."),
    ("unbooked_days", "integer", "Days whose usage was built and not booked: in the draft's side alone."),
    ("seconds", "numeric", "How long it took."),
    ("ran_at", "timestamptz", "When it ran first."),
)

STRIPE_SYNC = _schema(
    ("account_id", "text", "Who pays."),
    ("customer_id", "text", "The customer at Stripe. Null: none is linked."),
    ("state", "text", "in_step, behind, failed (a person is needed), unlinked."),
    ("wanted_digest", "text", "SHA-256 of what was wanted when it was last in step."),
    ("synced_at", "timestamptz", "When the sync began that last brought it in step."),
    ("verified_at", "timestamptz", "When Stripe was last seen to hold it."),
    ("behind_since", "timestamptz", "Since when it is not in step."),
    ("problem", "text", "Why it is not in step."),
    ("run_id", "text", "The run that wrote the row."),
    ("changed_at", "timestamptz", "When it was written."),
)

RECONCILIATION = _schema(
    ("run_id", "text", "The run that has looked."),
    ("row_number", "integer", "Place in the run, from 1."),
    ("day", "date", "The run's day."),
    ("compared_at", "timestamptz", "When both sides were read."),
    ("account_id", "text", "Who pays."),
    ("customer_id", "text", "The customer at Stripe. Null: none is linked."),
    ("invoice_id", "uuid", "The invoice here. Null: what Stripe holds under keys that nothing here has."),
    ("subscription_id", "text", "Whose period it bills. Null: the account's own, or none."),
    ("period_start", "timestamptz", "Start of the billing period, inside."),
    ("period_end", "timestamptz", "End of the billing period, outside."),
    ("state", "text", "draft or final."),
    ("currency", "text", "ISO 4217."),
    ("ours_stripe_minor", "bigint", "What is to be charged, less what is given back, in Stripe's minor units."),
    ("held_stripe_minor", "bigint", "What Stripe holds under the same keys."),
    ("difference_stripe_minor", "bigint", "held - ours: above 0, Stripe holds too much."),
    ("agreement", "text", "equal, not_due, behind, unlinked, drift."),
    ("behind_since", "timestamptz", "Since when the account is not in step, where it is behind."),
    ("problem", "text", "What keeps it from being in step."),
    ("drifts", "jsonb", "By line: key, ours, held, where."),
    ("ours_credited_stripe_minor", "bigint", "Given back by credit notes, 0 or below; ours is less it."),
    ("held_credited_stripe_minor", "bigint", "The same at Stripe."),
)
