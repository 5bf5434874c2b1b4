-- What a person is to be told of: incidents, each once, and what became of telling it. Owner: resources/alerting.
create schema alerts;

-- Something that is wrong from opened_at until closed_at. Grain: (kind, subject) while it is open.
create table alerts.incident (
    incident_id bigint generated always as identity primary key,
    kind text not null check (kind <> ''),
    -- what it is about, such as a job and its days, an asset and its day, an account
    subject text not null check (subject <> ''),
    -- what happened, what it means for the bill, what to do
    message text not null,
    opened_at timestamptz not null,
    -- when it was last found to be wrong still
    seen_at timestamptz not null,
    closed_at timestamptz,
    closing_message text,
    check ((closed_at is null) = (closing_message is null)),
    check (closed_at >= opened_at)
);
create unique index incident_open on alerts.incident (kind, subject) where closed_at is null;

-- What an incident was seen by: ids of runs, figures, digests. Append-only. Grain: incident, evidence.
create table alerts.evidence (
    incident_id bigint not null references alerts.incident (incident_id),
    -- SHA-256 of evidence
    digest text not null check (digest ~ '^[0-9a-f]{64}$'),
    evidence jsonb not null,
    noted_at timestamptz not null,
    primary key (incident_id, digest)
);

-- A message on its way: that an incident has begun, or ended, by one channel. Written with the incident, in its transaction.
create table alerts.delivery (
    incident_id bigint not null references alerts.incident (incident_id),
    phase text not null check (phase in ('opened', 'closed')),
    channel text not null,
    attempts integer not null default 0 check (attempts >= 0),
    not_before timestamptz,
    problem text,
    delivered_at timestamptz,
    primary key (incident_id, phase, channel)
);
create index delivery_waiting on alerts.delivery (incident_id) where delivered_at is null;
