-- Every usage event once, whether its day has been compacted yet or not; money is DECIMAL(18,9) USD.
-- Null costs are unknown prices, never 0.
--
-- `maestro cost` gives these files what they stand on; with any other DuckDB, before reading them:
--   CREATE VIEW lake_usage AS SELECT * FROM read_parquet('lake/usage_daily/*/part-*.parquet',
--       hive_partitioning = true, hive_types = {day: DATE});
--   CREATE VIEW fresh_usage AS SELECT * FROM lake_usage LIMIT 0;
CREATE OR REPLACE VIEW usage AS
SELECT * FROM lake_usage
UNION ALL BY NAME
SELECT * FROM fresh_usage;
