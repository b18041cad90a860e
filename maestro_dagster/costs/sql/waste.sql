-- By day, flow and step: what failed or cancelled work cost, and what second and later attempts cost.
CREATE OR REPLACE VIEW waste AS
SELECT
    day,
    tenant,
    flow,
    step,
    sum(cost_usd) FILTER (outcome IN ('failed', 'cancelled')) AS failed_usd,
    coalesce(sum(events) FILTER (outcome IN ('failed', 'cancelled')), 0) AS failed_events,
    coalesce(sum(unknown) FILTER (outcome IN ('failed', 'cancelled')), 0) AS failed_unknown,
    sum(cost_usd) FILTER (retry) AS retry_usd,
    coalesce(sum(events) FILTER (retry), 0) AS retry_events,
    coalesce(sum(unknown) FILTER (retry), 0) AS retry_unknown
FROM cube_day_flow_step
WHERE outcome IN ('failed', 'cancelled') OR retry
GROUP BY ALL;
