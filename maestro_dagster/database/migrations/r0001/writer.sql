-- The last write transaction of each session that was committed: whoever lost a connection looks here.
CREATE TABLE writer (session text PRIMARY KEY, number bigint NOT NULL, at timestamptz NOT NULL)
  WITH (fillfactor = 50);
-- Homes whose files were copied here by `maestro migrate`: each once.
CREATE TABLE moved (home text PRIMARY KEY, at double precision NOT NULL, tables text NOT NULL);
