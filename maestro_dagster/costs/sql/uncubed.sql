-- What no published cube shows yet, in rows that cubes add up: usage of days whose cubes are stale or
-- missing, usage that is only in the spool, and sums of what retention has removed from such days.
CREATE OR REPLACE VIEW uncubed AS
SELECT
    day, tenant, project, env, flow, step, kind, provider, model, phase, outcome,
    attempt > 1 AS retry,
    CAST(1 AS BIGINT) AS events,
    CAST(cost_usd IS NULL AS BIGINT) AS unknown,
    CAST(cost_usd AS DECIMAL(28, 9)) AS cost_usd,
    tokens_in, tokens_out, tokens_cached, tokens_cache_write, tokens_reasoning,
    cpu_ms, memory_kb_ms, bytes_in, bytes_out, wall_ms
FROM (SELECT * FROM stale_usage UNION ALL BY NAME SELECT * FROM fresh_usage)
UNION ALL BY NAME
SELECT * REPLACE (CASE WHEN events > unknown THEN cost_usd END AS cost_usd)
FROM retired_usage;
