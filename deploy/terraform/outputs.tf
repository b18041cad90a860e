output "artifact_store" {
  description = "The setting artifact_store."
  value       = "s3://${aws_s3_bucket.store["artifacts"].bucket}/artifacts"
}

output "lake" {
  description = "The setting lake."
  value       = "s3://${aws_s3_bucket.store["artifacts"].bucket}/lake"
}

output "evidence" {
  description = "The setting evidence."
  value       = "s3://${aws_s3_bucket.store["evidence"].bucket}/evidence"
}

output "backups" {
  description = "Where `maestro backup` may write; a prefix per project."
  value       = "s3://${aws_s3_bucket.store["backups"].bucket}"
}

output "maestro_policy_arn" {
  description = "The policy to attach to the role of Maestro's service account."
  value       = aws_iam_policy.maestro.arn
}

output "postgres_address" {
  description = "Host of PostgreSQL; the database is called maestro, its user maestro_app."
  value       = aws_db_instance.postgres.address
}

output "postgres_password_secret_arn" {
  description = "Where Secrets Manager keeps the password."
  value       = aws_db_instance.postgres.master_user_secret[0].secret_arn
}
