-- What is spent and reserved of each budget (costs/counter_postgres.py). It may have been taken over.
CREATE TABLE IF NOT EXISTS budget_account (
  key text COLLATE "C" PRIMARY KEY, spent_nano numeric(38) NOT NULL, reserved_nano numeric(38) NOT NULL,
  spent_tokens bigint NOT NULL, reserved_tokens bigint NOT NULL, unknown bigint NOT NULL,
  told integer NOT NULL, alerted integer NOT NULL) WITH (fillfactor = 50);
CREATE TABLE IF NOT EXISTS budget_entry (
  reservation_id text PRIMARY KEY, run_id text NOT NULL, owner text NOT NULL, keys text NOT NULL,
  nano numeric(38) NOT NULL, tokens bigint NOT NULL, unknown bigint NOT NULL, open integer NOT NULL);
CREATE INDEX IF NOT EXISTS maestro_budget_entry_run ON budget_entry (run_id);
CREATE TABLE IF NOT EXISTS budget_ended (run_id text PRIMARY KEY);
CREATE TABLE IF NOT EXISTS budget_frozen (
  path text PRIMARY KEY, reason text NOT NULL, by text NOT NULL, at text NOT NULL);
