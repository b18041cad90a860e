"""The server of `maestro dev`: webhooks, metrics, health, and the Dagster UI, on one port."""
