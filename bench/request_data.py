"""Generate request rows, the same from the same seed: skewed accounts, out of order, repeats far apart, a tenth not billable.

Grain: one request. `rows_query` gives the rows of one file in the order of the file; request_files writes them down. Every
value is a function of (seed, part, key), so that neither threads nor file formats change the data.
"""

from dataclasses import dataclass
from datetime import date

ACCOUNTS = 2_000
VEHICLES = 100_000
# Of each hundred positions the last one repeats a row half a file away.
GROUP = 100

# Endpoint below a vehicle -> share in thousandths; the last two are not billable.
ENDPOINTS = (
    ("GET", "odometer", 400),
    ("GET", "location", 300),
    ("GET", "battery", 144),
    ("GET", "vin", 75),
    ("GET", "info", 75),
    ("POST", "security", 3),
    ("DELETE", "application", 3),
)
BILLABLE = ("odometer", "location", "battery", "vin", "info")
_FAILURES = (400, 401, 404, 409, 429, 500, 502)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRows:
    """One file's rows. `days` above 1 spreads the accounts over that many event days from `first_day` on, in order of day."""

    rows: int
    first_day: date
    part: int = 0
    days: int = 1
    seed: int = 20_260_301

    def __post_init__(self) -> None:
        if self.rows < 2 * GROUP or self.rows % GROUP:
            raise ValueError(f"rows must be a multiple of {GROUP}, at least {2 * GROUP}; got {self.rows}")


def account_id(number: int) -> str:
    """Return the id of an account; its only client is called `client_<number>`."""
    return f"account_{number:04}"


def client_id(number: int) -> str:
    """Return the id of the client of account `number`."""
    return f"client_{number:04}"


def rows_query(data: RequestRows) -> str:
    """Return the DuckDB query of the rows in file order.

    Columns: position, day_number (0-based), request_id, client_id, event_at (TIMESTAMP, milliseconds), endpoint (raw path), method,
    status_code, tenths (response time in tenths of a millisecond), is_real_vehicle.
    """
    groups = data.rows // GROUP
    chance = f"hash(key, {data.part}, {data.seed}"
    endpoints, methods, below = [], [], 0
    for method, name, share in ENDPOINTS:
        below += share
        endpoints.append(f"when dice < {below} then '{name}'")
        methods.append(f"when dice < {below} then '{method}'")
    failures = "[" + ", ".join(str(status) for status in _FAILURES) + "]"
    order = "order by day_number, position" if data.days > 1 else ""
    return f"""
    with
    positions as (
        select
            range as position,
            case
                when position % {GROUP} = {GROUP - 1}
                    then ((position // {GROUP} + {groups // 2}) % {groups}) * {GROUP}
                        + (hash(position, {data.seed}) % {GROUP - 1})::bigint
                else position
            end as key,
        from range({data.rows})
    ),
    drawn as (
        select
            position,
            key,
            least(floor({ACCOUNTS} * pow({chance}, 1) / 18446744073709551616.0, 3)), {ACCOUNTS - 1})::integer as account,
            greatest(0, least(86399999,
                key * 86400000 // {data.rows} + ({chance}, 2) % 1200000)::bigint - 600000)) as at_ms,
            {chance}, 3) % {VEHICLES} as vehicle,
            {chance}, 4) % 1000 as dice,
            {chance}, 5) as fate,
            ({chance}, 6) % 1000000 + 1) / 1000000.0 as luck,
            {chance}, 7) % 100 >= 4 as is_real_vehicle,
        from positions
    )
    select
        position,
        account % {data.days} as day_number,
        md5('{data.seed}/{data.part}/' || key)::uuid::varchar as request_id,
        'client_' || lpad(account::varchar, 4, '0') as client_id,
        timestamp '{data.first_day}' + to_days((account % {data.days})::integer) + to_milliseconds(at_ms) as event_at,
        '/v2.0/vehicles/' || md5('vehicle/' || vehicle)::uuid::varchar || '/' || case {" ".join(endpoints)} end as endpoint,
        case {" ".join(methods)} end as method,
        (case when fate % 1000 < 940 then 200 else {failures}[1 + (fate // 1000 % {len(_FAILURES)})::integer] end)::integer
            as status_code,
        (200 + floor(-900 * ln(luck)))::integer as tenths,
        is_real_vehicle,
    from drawn
    {order}
    """


def lines_query(data: RequestRows) -> str:
    """Return the query of (position, day_number, line): the rows as JSON lines of profile billable_request_json."""
    return f"""
    select
        position,
        day_number,
        '{{"request_id":"' || request_id || '","client_id":"' || client_id
            || '","timestamp":"' || strftime(event_at, '%Y-%m-%dT%H:%M:%S.%gZ') || '","endpoint":"' || endpoint
            || '","method":"' || method || '","status_code":' || status_code
            || ',"response_time_ms":' || tenths // 10 || '.' || tenths % 10
            || ',"is_real_vehicle":' || is_real_vehicle || '}}' || chr(10) as line,
    from ({rows_query(data)})
    """
