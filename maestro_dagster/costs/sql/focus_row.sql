-- The rows of `charge` as rows of FOCUS 1.2, in its order: it was sorted while the rows were narrow.
WITH measured AS (
  SELECT
    *,
    meter = 'Credit' AS is_credit,
    CASE
      WHEN meter LIKE '% Tokens' THEN 'AI and Machine Learning'
      WHEN meter LIKE '%Model Calls' THEN 'AI and Machine Learning'
      WHEN meter IN ('CPU Time', 'Memory') THEN 'Compute'
      WHEN meter LIKE 'Network%' THEN 'Networking'
      WHEN meter = 'Storage Written' THEN 'Storage'
      ELSE 'Other'
    END AS category,
    CASE
      WHEN meter LIKE '% Tokens' THEN 'Tokens'
      WHEN meter LIKE '%Model Calls' THEN 'Calls'
      WHEN meter = 'CPU Time' THEN 'CPU-Seconds'
      WHEN meter = 'Memory' THEN 'GB-Seconds'
      WHEN category IN ('Networking', 'Storage') THEN 'GB'
      ELSE 'Charges'
    END AS unit,
    CASE
      WHEN unit IN ('Tokens', 'Calls', 'Charges') THEN 1000000000
      WHEN unit = 'CPU-Seconds' THEN 1000000
      ELSE 1
    END AS unit9,
    CASE WHEN unit = 'Tokens' THEN 1000000 ELSE 1 END AS lot
  FROM charge
), valued AS (
  SELECT
    *,
    -- Scaled by 10^9, exact. The price is cost / quantity at 18 places, so that price x quantity, rounded
    -- to the nano-dollar, is the cost (up to 10^8 priced units in a row).
    raw * unit9 AS consumed9,
    raw * unit9 // lot AS priced9,
    CAST(cost * CAST(1000000000 AS DECIMAL(10, 0)) AS HUGEINT) AS nano
  FROM measured
), rated AS (
  SELECT
    *,
    CASE WHEN NOT is_credit THEN
      CAST(consumed9 AS DECIMAL(38, 0)) * CAST('0.000000001' AS DECIMAL(9, 9)) END AS consumed,
    CASE WHEN NOT is_credit THEN
      CAST(priced9 AS DECIMAL(38, 0)) * CAST('0.000000001' AS DECIMAL(9, 9)) END AS quantity,
    CASE WHEN NOT is_credit THEN CAST(
      CAST((2 * nano * 1000000000000000000 + priced9) // (2 * priced9) AS DECIMAL(38, 0))
      * CAST('0.000000000000000001' AS DECIMAL(18, 18)) AS DECIMAL(38, 18)) END AS unit_price,
    CASE WHEN NOT is_credit THEN CASE WHEN lot > 1 THEN lot || ' ' || unit ELSE unit END END AS pricing_unit,
    CASE WHEN category = 'AI and Machine Learning' THEN provider || ' API'
      WHEN category = 'Other' THEN 'Maestro Charges'
      ELSE 'Maestro ' || category END AS service,
    CASE category
      WHEN 'AI and Machine Learning' THEN 'Generative AI'
      WHEN 'Other' THEN 'Other (Other)'
      ELSE 'Other (' || category || ')'
    END AS subcategory,
    CASE WHEN category = 'AI and Machine Learning' THEN provider || '/' || model
      ELSE 'maestro/' || lower(replace(meter, ' ', '-')) END AS sku
  FROM valued
)
SELECT
  cost AS "BilledCost",
  'acct-' || tenant AS "BillingAccountId",
  tenant AS "BillingAccountName",
  'Tenant' AS "BillingAccountType",
  'USD' AS "BillingCurrency",
  date_trunc('month', hour) + INTERVAL 1 MONTH AS "BillingPeriodEnd",
  CAST(date_trunc('month', hour) AS TIMESTAMP) AS "BillingPeriodStart",
  CASE WHEN is_credit THEN 'Credit' ELSE 'Usage' END AS "ChargeCategory",
  CAST(NULL AS VARCHAR) AS "ChargeClass",
  CASE WHEN is_credit THEN 'Credit for step ' ELSE meter || ' of step ' END || step AS "ChargeDescription",
  CASE WHEN is_credit THEN 'One-Time' ELSE 'Usage-Based' END AS "ChargeFrequency",
  hour + INTERVAL 1 HOUR AS "ChargePeriodEnd",
  hour AS "ChargePeriodStart",
  CAST(NULL AS VARCHAR) AS "CommitmentDiscountId",
  CAST(NULL AS VARCHAR) AS "CommitmentDiscountStatus",
  consumed AS "ConsumedQuantity",
  CASE WHEN NOT is_credit THEN unit END AS "ConsumedUnit",
  cost AS "ContractedCost",
  unit_price AS "ContractedUnitPrice",
  cost AS "EffectiveCost",
  CAST(NULL AS VARCHAR) AS "InvoiceId",
  'Maestro' AS "InvoiceIssuerName",
  cost AS "ListCost",
  unit_price AS "ListUnitPrice",
  CASE WHEN NOT is_credit THEN 'Standard' END AS "PricingCategory",
  'USD' AS "PricingCurrency",
  unit_price AS "PricingCurrencyContractedUnitPrice",
  cost AS "PricingCurrencyEffectiveCost",
  unit_price AS "PricingCurrencyListUnitPrice",
  quantity AS "PricingQuantity",
  pricing_unit AS "PricingUnit",
  'Maestro' AS "ProviderName",
  CASE WHEN provider IN ('', 'maestro') THEN 'Maestro' ELSE provider END AS "PublisherName",
  run_id AS "ResourceId",
  run_id AS "ResourceName",
  'Run' AS "ResourceType",
  category AS "ServiceCategory",
  service AS "ServiceName",
  subcategory AS "ServiceSubcategory",
  CASE WHEN NOT is_credit THEN sku END AS "SkuId",
  CASE WHEN NOT is_credit THEN meter END AS "SkuMeter",
  CASE WHEN NOT is_credit THEN CAST(to_json({'x_Meter': meter, 'x_PriceList': price}) AS VARCHAR) END
    AS "SkuPriceDetails",
  CASE WHEN NOT is_credit THEN sku || '/' || lower(replace(meter, ' ', '-')) || '/' || price END
    AS "SkuPriceId",
  tenant || '/' || env AS "SubAccountId",
  env AS "SubAccountName",
  'Environment' AS "SubAccountType",
  CAST(to_json({'env': env, 'flow': flow, 'project': project, 'step': step}) AS VARCHAR) AS "Tags",
  events AS "x_Events",
  flow AS "x_Flow",
  outcome AS "x_Outcome",
  project AS "x_Project",
  step AS "x_Step"
FROM rated
