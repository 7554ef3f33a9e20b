-- Records. `fields` is the index as JSON, [["name", value], ..], so that a put that leaves it alone writes no index.
CREATE TABLE certlib_records (
    kind     TEXT    NOT NULL,
    id       TEXT    NOT NULL,
    revision INTEGER NOT NULL,
    fields   TEXT    NOT NULL,
    body     TEXT    NOT NULL,
    PRIMARY KEY (kind, id)
);

-- `value` has no declared type: numbers stay numbers, texts stay texts, and numbers sort before texts.
CREATE TABLE certlib_record_index (
    kind  TEXT NOT NULL,
    field TEXT NOT NULL,
    value      NOT NULL,
    id    TEXT NOT NULL,
    PRIMARY KEY (kind, field, value, id)
) WITHOUT ROWID;

-- Times are Unix milliseconds.
CREATE TABLE certlib_jobs (
    id               TEXT    NOT NULL PRIMARY KEY,
    kind             TEXT    NOT NULL,
    lane             TEXT    NOT NULL,
    natural_key      TEXT,
    project          TEXT    NOT NULL,
    parent           TEXT    NOT NULL,
    payload          TEXT    NOT NULL,
    priority         INTEGER NOT NULL,
    state            TEXT    NOT NULL,
    attempt          INTEGER NOT NULL,
    claim_epoch      INTEGER NOT NULL,
    crash_count      INTEGER NOT NULL,
    run_at           INTEGER NOT NULL,
    lease_until      INTEGER,
    worker           TEXT,
    cancel_requested INTEGER NOT NULL,
    rerun_requested  INTEGER NOT NULL,
    attempts         TEXT    NOT NULL,
    created_at       INTEGER NOT NULL,
    finished_at      INTEGER
);

CREATE UNIQUE INDEX certlib_jobs_active ON certlib_jobs (kind, natural_key)
    WHERE natural_key IS NOT NULL AND state IN ('pending', 'in_progress');
CREATE INDEX certlib_jobs_waiting ON certlib_jobs (lane, priority DESC, run_at, id, parent, kind)
    WHERE state = 'pending';
CREATE INDEX certlib_jobs_leased ON certlib_jobs (lease_until, id, kind) WHERE state = 'in_progress';
CREATE INDEX certlib_jobs_dead ON certlib_jobs (kind, created_at, id) WHERE state = 'dead_letter';
CREATE INDEX certlib_jobs_ended ON certlib_jobs (state, finished_at, id) WHERE finished_at IS NOT NULL;
CREATE INDEX certlib_jobs_age ON certlib_jobs (created_at, id);
CREATE INDEX certlib_jobs_project ON certlib_jobs (project, created_at, id);
CREATE INDEX certlib_jobs_key ON certlib_jobs (natural_key, created_at, id) WHERE natural_key IS NOT NULL;

-- Rows are never deleted, so that `epoch` never goes back.
CREATE TABLE certlib_leases (
    name       TEXT    NOT NULL PRIMARY KEY,
    holder     TEXT    NOT NULL,
    nonce      TEXT    NOT NULL,
    epoch      INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    released   INTEGER NOT NULL
) WITHOUT ROWID;
