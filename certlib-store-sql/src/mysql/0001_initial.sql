-- Texts are VARBINARY: compared byte by byte, neither folded nor padded, whatever collation the server prefers.
-- Data definition commits by itself: every statement can be repeated, and what was done is counted in certlib_schema.

-- `fields` is the index as JSON, [["name", "hexadecimal value"], ..], so that a put that leaves it alone writes no index.
CREATE TABLE IF NOT EXISTS certlib_records (
    kind     VARBINARY(64)  NOT NULL,
    id       VARBINARY(255) NOT NULL,
    revision BIGINT         NOT NULL,
    fields   MEDIUMBLOB     NOT NULL,
    body     LONGBLOB       NOT NULL,
    PRIMARY KEY (kind, id)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC;

-- `value` sorts as the values do: every number before every text.
CREATE TABLE IF NOT EXISTS certlib_record_index (
    kind  VARBINARY(64)  NOT NULL,
    field VARBINARY(64)  NOT NULL,
    value VARBINARY(320) NOT NULL,
    id    VARBINARY(255) NOT NULL,
    PRIMARY KEY (kind, field, value, id),
    KEY certlib_record_index_record (kind, id, field, value)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC;

-- Times are Unix milliseconds. `urgency` is the priority with its sign turned, so that one ascending index gives the
-- order of claims. `active_key` is the natural key while the job is active; NULLs are never equal. `settlement` names
-- the call that settled the job last.
CREATE TABLE IF NOT EXISTS certlib_jobs (
    id               VARBINARY(255)  NOT NULL,
    kind             VARBINARY(255)  NOT NULL,
    lane             VARBINARY(32)   NOT NULL,
    natural_key      VARBINARY(512),
    active_key       VARBINARY(512),
    project          VARBINARY(255)  NOT NULL,
    parent           VARBINARY(255)  NOT NULL,
    payload          MEDIUMBLOB      NOT NULL,
    urgency          INT             NOT NULL,
    state            VARBINARY(16)   NOT NULL,
    attempt          INT             NOT NULL,
    claim_epoch      BIGINT          NOT NULL,
    crash_count      INT             NOT NULL,
    run_at           BIGINT          NOT NULL,
    lease_until      BIGINT,
    worker           VARBINARY(1024),
    cancel_requested TINYINT         NOT NULL,
    rerun_requested  TINYINT         NOT NULL,
    attempts         MEDIUMBLOB      NOT NULL,
    created_at       BIGINT          NOT NULL,
    finished_at      BIGINT,
    settlement       BIGINT,
    PRIMARY KEY (id),
    UNIQUE KEY certlib_jobs_active (kind, active_key),
    KEY certlib_jobs_waiting (state, lane, urgency, run_at, id, parent),
    KEY certlib_jobs_leased (state, lease_until, id),
    KEY certlib_jobs_ended (state, finished_at, id),
    KEY certlib_jobs_state (state, kind, created_at, id),
    KEY certlib_jobs_age (created_at, id),
    KEY certlib_jobs_project (project, created_at, id),
    KEY certlib_jobs_key (natural_key, created_at, id)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC;

-- Rows are never deleted, so that `epoch` never goes back. `server` and `renewed_at` (by the server's own clock) say
-- where and since when the holder's connection can be looked for.
CREATE TABLE IF NOT EXISTS certlib_leases (
    name       VARBINARY(255)  NOT NULL,
    holder     VARBINARY(1024) NOT NULL,
    nonce      VARBINARY(255)  NOT NULL,
    epoch      BIGINT          NOT NULL,
    expires_at BIGINT          NOT NULL,
    released   TINYINT         NOT NULL,
    server     VARBINARY(512)  NOT NULL,
    renewed_at BIGINT          NOT NULL,
    PRIMARY KEY (name)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC;
