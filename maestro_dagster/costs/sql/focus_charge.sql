-- Usage events of one day (`usage`) as rows of FOCUS 1.2: one per hour, place of use and meter.
-- An event has several meters when it is a model call: one for each kind of token. Their costs add up to
-- the event's cost; what no meter explains (a call priced as a whole) is charged by the call.
-- Quantities are whole numbers of `raw` units; `unit9` is the price unit's share of 10^9 of them.
CREATE TEMP TABLE charge AS
WITH priced AS (
  SELECT
    *,
    CAST(date_trunc('hour', occurred_at AT TIME ZONE 'UTC') AS TIMESTAMP) AS hour,
    cost_usd >= 0 AND kind = 'llm' AND phase = 'settled' AS by_token,
    greatest(
      tokens_in - CASE WHEN usd_cached IS NULL THEN 0 ELSE tokens_cached END
      - CASE WHEN usd_cache_write IS NULL THEN 0 ELSE tokens_cache_write END, 0
    ) AS tokens_fresh
  FROM usage
  WHERE cost_usd IS NOT NULL
), parted AS (
  SELECT
    *,
    CASE WHEN by_token AND tokens_fresh > 0 THEN usd_in END AS part_in,
    CASE WHEN by_token AND tokens_cached > 0 THEN usd_cached END AS part_cached,
    CASE WHEN by_token AND tokens_cache_write > 0 THEN usd_cache_write END AS part_write,
    CASE WHEN by_token AND tokens_out > 0 THEN usd_out END AS part_out
  FROM priced
), rested AS (
  SELECT
    *,
    cost_usd - coalesce(part_in, 0) - coalesce(part_cached, 0) - coalesce(part_write, 0)
      - coalesce(part_out, 0) AS rest,
    coalesce(part_in, part_cached, part_write, part_out) IS NOT NULL AS parted
  FROM parted
), whole AS (
  SELECT
    *,
    CASE
      WHEN cost_usd < 0 THEN 'Credit'
      WHEN kind = 'llm' AND phase = 'intent' THEN 'Unsettled Model Calls'
      WHEN kind = 'llm' AND parted AND rest = 0 THEN NULL
      WHEN kind = 'llm' THEN 'Model Calls'
      WHEN kind = 'compute' AND cpu_ms > 0 THEN 'CPU Time'
      WHEN kind = 'memory' AND memory_kb_ms > 0 THEN 'Memory'
      WHEN kind = 'network' AND bytes_in > 0 AND bytes_out = 0 THEN 'Network In'
      WHEN kind = 'network' AND bytes_in + bytes_out > 0 THEN 'Network Out'
      WHEN kind = 'storage' AND bytes_out > 0 THEN 'Storage Written'
      WHEN cost_usd = 0 THEN NULL
      ELSE 'Other Charges'
    END AS meter
  FROM rested
), metered AS (
  SELECT
    tenant, project, env, hour, flow, run_id, step, provider, model, price, outcome,
    unnest([
      {'meter': CASE WHEN part_in IS NOT NULL THEN 'Input Tokens' END, 'cost': part_in, 'raw': tokens_fresh},
      {'meter': CASE WHEN part_cached IS NOT NULL THEN 'Cached Input Tokens' END,
       'cost': part_cached, 'raw': tokens_cached},
      {'meter': CASE WHEN part_write IS NOT NULL THEN 'Cache Write Tokens' END,
       'cost': part_write, 'raw': tokens_cache_write},
      {'meter': CASE WHEN part_out IS NOT NULL THEN 'Output Tokens' END, 'cost': part_out, 'raw': tokens_out},
      {'meter': meter, 'cost': rest, 'raw': CASE meter
        WHEN 'CPU Time' THEN cpu_ms
        WHEN 'Memory' THEN memory_kb_ms
        WHEN 'Network In' THEN bytes_in
        WHEN 'Network Out' THEN bytes_in + bytes_out
        WHEN 'Storage Written' THEN bytes_out
        ELSE 1 END}
    ]) AS part
  FROM whole
)
SELECT
  tenant, project, env, hour, flow, run_id, step, provider, model, price, outcome, part.meter AS meter,
  CAST(sum(part.cost) AS DECIMAL(38, 9)) AS cost,
  CAST(sum(part.raw) AS HUGEINT) AS raw,
  count(*) AS events
FROM metered
WHERE part.meter IS NOT NULL
GROUP BY ALL
ORDER BY
  tenant, hour, project, env, flow, run_id, step, provider, model, price, outcome, meter;
