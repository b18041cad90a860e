-- A row per day. `unknown` events have no price and are not in `cost_usd`.
CREATE OR REPLACE VIEW usage_by_day AS
SELECT
    day,
    sum(cost_usd) AS cost_usd,
    sum(events) AS events,
    sum(unknown) AS unknown,
    sum(cost_usd) FILTER (outcome IN ('failed', 'cancelled')) AS failed_usd,
    sum(tokens_in) AS tokens_in,
    sum(tokens_out) AS tokens_out
FROM cube_day_tenant
GROUP BY day;
