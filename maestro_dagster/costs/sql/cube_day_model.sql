-- Usage by day, tenant, env, kind, provider, model. A day that is partly only in the spool has a group twice: add up.
CREATE OR REPLACE VIEW cube_day_model AS
SELECT * FROM lake_cube_day_model
UNION ALL BY NAME
SELECT
    day, tenant, env, kind, provider, model,
    CAST(sum(events) AS BIGINT) AS events,
    CAST(sum(unknown) AS BIGINT) AS unknown,
    CAST(sum(cost_usd) AS DECIMAL(28, 9)) AS cost_usd,
    CAST(sum(tokens_in) AS BIGINT) AS tokens_in,
    CAST(sum(tokens_out) AS BIGINT) AS tokens_out,
    CAST(sum(tokens_cached) AS BIGINT) AS tokens_cached,
    CAST(sum(tokens_cache_write) AS BIGINT) AS tokens_cache_write,
    CAST(sum(tokens_reasoning) AS BIGINT) AS tokens_reasoning,
    CAST(sum(cpu_ms) AS BIGINT) AS cpu_ms,
    CAST(sum(memory_kb_ms) AS BIGINT) AS memory_kb_ms,
    CAST(sum(bytes_in) AS BIGINT) AS bytes_in,
    CAST(sum(bytes_out) AS BIGINT) AS bytes_out,
    CAST(sum(wall_ms) AS BIGINT) AS wall_ms
FROM uncubed
GROUP BY ALL;
