-- Usage that waits for its day's compaction (costs/postgres_spool.py). It may have been taken over.
CREATE SEQUENCE IF NOT EXISTS usage_source_id;
CREATE TABLE IF NOT EXISTS usage_source (
  id bigint PRIMARY KEY, scope text COLLATE "C" NOT NULL, run_id text COLLATE "C" NOT NULL);
CREATE INDEX IF NOT EXISTS maestro_usage_source_run ON usage_source (scope, run_id, id);
CREATE TABLE IF NOT EXISTS usage_line (
  source bigint NOT NULL, number integer NOT NULL, day date NOT NULL, line text NOT NULL,
  PRIMARY KEY (source, number));
CREATE INDEX IF NOT EXISTS maestro_usage_line_day ON usage_line (day, source);
CREATE TABLE IF NOT EXISTS usage_lineage (
  scope text COLLATE "C" NOT NULL, run_id text COLLATE "C" NOT NULL, data text NOT NULL,
  PRIMARY KEY (scope, run_id));
DROP TABLE IF EXISTS usage_version;
