-- What forges shall show of runs, and the runs that are still told of (events/outbox.py).
CREATE TABLE report (
  target text COLLATE "C" NOT NULL PRIMARY KEY,
  repository text COLLATE "C" NOT NULL, kind text NOT NULL, body text NOT NULL,
  revision bigint NOT NULL, sent bigint NOT NULL, known text NOT NULL,
  tries bigint NOT NULL, unsure bigint NOT NULL, state text NOT NULL,
  due_at double precision NOT NULL, changed_at double precision NOT NULL, sent_at double precision,
  claimed_until double precision NOT NULL, owner text COLLATE "C" NOT NULL, error text
);
CREATE INDEX report_due ON report (due_at) WHERE state = 'due';
CREATE TABLE watched_run (
  run_id text COLLATE "C" NOT NULL PRIMARY KEY,
  repository text NOT NULL, mark text NOT NULL, finished bigint NOT NULL, noted_at double precision NOT NULL
);
CREATE INDEX watched_run_open ON watched_run (noted_at) WHERE finished = 0;
