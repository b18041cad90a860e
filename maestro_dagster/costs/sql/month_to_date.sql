-- A row per month, tenant and project up to the last day that has usage.
CREATE OR REPLACE VIEW month_to_date AS
SELECT
    CAST(date_trunc('month', day) AS DATE) AS month,
    tenant,
    project,
    max(day) AS last_day,
    sum(cost_usd) AS cost_usd,
    sum(events) AS events,
    sum(unknown) AS unknown
FROM cube_day_tenant
GROUP BY ALL;
