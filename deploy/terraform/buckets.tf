# Three buckets: artifacts may be collected when nothing needs them any more, evidence may not be touched at all, and
# backups can be added to and read.
locals {
  buckets = {
    artifacts = "${var.name}-artifacts"
    evidence  = "${var.name}-evidence"
    backups   = "${var.name}-backups"
  }
}

resource "aws_s3_bucket" "store" {
  for_each = local.buckets

  bucket              = each.value
  object_lock_enabled = each.key == "evidence"
  tags                = var.tags

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_s3_bucket_versioning" "store" {
  for_each = aws_s3_bucket.store

  bucket = each.value.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_object_lock_configuration" "evidence" {
  bucket = aws_s3_bucket_versioning.store["evidence"].bucket

  rule {
    default_retention {
      mode = "COMPLIANCE"
      days = var.evidence_lock_days
    }
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "store" {
  for_each = aws_s3_bucket.store

  bucket = each.value.id

  rule {
    bucket_key_enabled = true

    apply_server_side_encryption_by_default {
      sse_algorithm = "aws:kms"
    }
  }
}

resource "aws_s3_bucket_public_access_block" "store" {
  for_each = aws_s3_bucket.store

  bucket                  = each.value.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "store" {
  for_each = aws_s3_bucket.store

  bucket = each.value.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_policy" "store" {
  for_each = aws_s3_bucket.store

  bucket = each.value.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "OnlyOverTls"
      Effect    = "Deny"
      Principal = "*"
      Action    = "s3:*"
      Resource  = [each.value.arn, "${each.value.arn}/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
  })

  depends_on = [aws_s3_bucket_public_access_block.store]
}

resource "aws_s3_bucket_lifecycle_configuration" "store" {
  for_each = aws_s3_bucket_versioning.store

  bucket = each.value.bucket

  rule {
    id     = "unfinished-uploads"
    status = "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
  }

  dynamic "rule" {
    for_each = each.key == "artifacts" ? [var.artifact_version_days] : []

    content {
      id     = "old-versions"
      status = "Enabled"

      filter {}

      noncurrent_version_expiration {
        noncurrent_days = rule.value
      }
    }
  }
}

# What Maestro itself may do. Evidence and backups it can add and read; nothing in them can be removed with these rights,
# and versions keep what would be replaced.
data "aws_iam_policy_document" "maestro" {
  statement {
    sid       = "List"
    actions   = ["s3:ListBucket", "s3:GetBucketLocation"]
    resources = [for bucket in aws_s3_bucket.store : bucket.arn]
  }

  statement {
    sid = "Artifacts"
    actions = [
      "s3:GetObject", "s3:PutObject", "s3:DeleteObject",
      "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts",
    ]
    resources = ["${aws_s3_bucket.store["artifacts"].arn}/*"]
  }

  statement {
    sid = "Evidence"
    actions = [
      "s3:GetObject", "s3:PutObject",
      "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts",
    ]
    resources = ["${aws_s3_bucket.store["evidence"].arn}/*"]
  }

  statement {
    sid = "Backups"
    actions = [
      "s3:GetObject", "s3:PutObject",
      "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts",
    ]
    resources = ["${aws_s3_bucket.store["backups"].arn}/*"]
  }
}

resource "aws_iam_policy" "maestro" {
  name   = "${var.name}-maestro"
  policy = data.aws_iam_policy_document.maestro.json
  tags   = var.tags
}
