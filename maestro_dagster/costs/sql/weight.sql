-- What each tenant (depth 1), project (2) and flow (3) used of the period: the weights of shared cost.
SELECT
    3 - grouping(project) - grouping(flow) AS depth,
    tenant,
    project,
    flow,
    coalesce(sum(cost_usd), 0) AS cost,
    sum(tokens_in) + sum(tokens_out) AS tokens,
    sum(cpu_ms) AS cpu,
    sum(memory_kb_ms) AS memory,
    count(DISTINCT run_id) AS runs,
    count(*) AS events,
    count(*) - count(cost_usd) AS unknown
FROM usage
GROUP BY GROUPING SETS ((tenant), (tenant, project), (tenant, project, flow));
