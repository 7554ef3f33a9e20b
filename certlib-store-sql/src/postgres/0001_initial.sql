-- Texts that are compared or sorted are compared and sorted by their bytes, whatever the database's own collation is.

-- Records. `fields` is the index beside its record, so that a put that leaves it alone writes no index entry: for each
-- field its name, a zero byte, and its value as in `certlib_record_index`.
CREATE TABLE certlib_records (
    kind     text COLLATE "C" NOT NULL,
    id       text COLLATE "C" NOT NULL,
    revision bigint           NOT NULL,
    fields   bytea[]          NOT NULL,
    body     text             NOT NULL,
    PRIMARY KEY (kind, id)
    -- Room in each page keeps the new version of a record beside the old one, and its index entries as they are.
) WITH (fillfactor = 80);

-- `value` sorts as the value does: numbers (a zero byte, then big-endian with the sign flipped), then texts (a one, then
-- UTF-8).
CREATE TABLE certlib_record_index (
    kind  text COLLATE "C" NOT NULL,
    field text COLLATE "C" NOT NULL,
    value bytea            NOT NULL,
    id    text COLLATE "C" NOT NULL,
    PRIMARY KEY (kind, field, value, id)
);

-- Times are Unix milliseconds.
CREATE TABLE certlib_jobs (
    run_at           bigint           NOT NULL,
    lease_until      bigint,
    claim_epoch      bigint           NOT NULL DEFAULT 0,
    created_at       bigint           NOT NULL,
    finished_at      bigint,
    attempt          integer          NOT NULL DEFAULT 0,
    crash_count      integer          NOT NULL DEFAULT 0,
    priority         smallint         NOT NULL,
    cancel_requested boolean          NOT NULL DEFAULT false,
    rerun_requested  boolean          NOT NULL DEFAULT false,
    id               text COLLATE "C" NOT NULL PRIMARY KEY,
    kind             text COLLATE "C" NOT NULL,
    lane             text COLLATE "C" NOT NULL,
    state            text COLLATE "C" NOT NULL DEFAULT 'pending',
    natural_key      text COLLATE "C",
    project          text COLLATE "C" NOT NULL,
    parent           text COLLATE "C" NOT NULL,
    worker           text COLLATE "C",
    attempts         text             NOT NULL DEFAULT '[]',
    payload          text             NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05);

CREATE UNIQUE INDEX certlib_jobs_active ON certlib_jobs (kind, natural_key)
    WHERE natural_key IS NOT NULL AND state IN ('pending', 'in_progress');
CREATE INDEX certlib_jobs_waiting ON certlib_jobs (lane, priority DESC, run_at, id) WHERE state = 'pending';
CREATE INDEX certlib_jobs_leased ON certlib_jobs (lease_until) WHERE state = 'in_progress';
CREATE INDEX certlib_jobs_dead ON certlib_jobs (created_at, id) WHERE state = 'dead_letter';
CREATE INDEX certlib_jobs_ended ON certlib_jobs (state, finished_at) WHERE finished_at IS NOT NULL;

-- In which order jobs are listed. Apart from them, because every claim and every settlement writes a new version of its
-- job, with a new entry in each index over it.
CREATE TABLE certlib_job_list (
    created_at  bigint           NOT NULL,
    id          text COLLATE "C" NOT NULL,
    project     text COLLATE "C" NOT NULL,
    natural_key text COLLATE "C",
    PRIMARY KEY (created_at, id)
);

CREATE INDEX certlib_job_list_project ON certlib_job_list (project, created_at, id);
CREATE INDEX certlib_job_list_key ON certlib_job_list (natural_key, created_at, id) WHERE natural_key IS NOT NULL;

-- Rows are never deleted, so that `epoch` never goes back. `backend_pid` and `backend_start` name the session that the
-- holder keeps open while it holds the lease.
CREATE TABLE certlib_leases (
    name          text COLLATE "C" NOT NULL PRIMARY KEY,
    holder        text COLLATE "C" NOT NULL,
    nonce         text COLLATE "C" NOT NULL,
    epoch         bigint           NOT NULL,
    expires_at    bigint           NOT NULL,
    released      boolean          NOT NULL,
    backend_pid   integer,
    backend_start timestamptz
) WITH (fillfactor = 50);
