-- The last write transaction of each session that was committed: whoever lost a connection looks here.
CREATE TABLE writer (session text PRIMARY KEY, number bigint NOT NULL, at timestamptz NOT NULL)
  WITH (fillfactor = 50);
