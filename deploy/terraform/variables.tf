variable "name" {
  description = "Prefix of everything that is made; bucket names are global, so let it name your organisation."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,30}[a-z0-9]$", var.name))
    error_message = "Give 4 to 32 lower-case letters, digits or hyphens; the first is a letter, the last no hyphen."
  }
}

variable "tags" {
  description = "Tags of everything that is made."
  type        = map(string)
  default     = {}
}

variable "vpc_id" {
  description = "The network of the cluster."
  type        = string
}

variable "subnet_ids" {
  description = "At least two private subnets of that network, in different zones."
  type        = list(string)

  validation {
    condition     = length(var.subnet_ids) >= 2
    error_message = "PostgreSQL needs subnets in two zones to fail over."
  }
}

variable "client_security_group_ids" {
  description = "Security groups whose members may reach PostgreSQL: those of the nodes that run Maestro."
  type        = list(string)
}

variable "evidence_lock_days" {
  description = "Days in which nobody, not even the root user, can remove or replace evidence. long-1825d needs 1825."
  type        = number
  default     = 365

  validation {
    condition     = var.evidence_lock_days >= 1 && var.evidence_lock_days <= 36500
    error_message = "Give 1 to 36500 days."
  }
}

variable "artifact_version_days" {
  description = "Days that removed or replaced artifacts can be brought back."
  type        = number
  default     = 30
}

variable "postgres_instance_class" {
  description = "Size of PostgreSQL."
  type        = string
  default     = "db.m6g.large"
}

variable "postgres_version" {
  description = "Major version of PostgreSQL."
  type        = string
  default     = "17"
}

variable "postgres_storage_gib" {
  description = "Disk of PostgreSQL at first; it grows to four times that by itself."
  type        = number
  default     = 50
}

variable "postgres_deletion_protection" {
  description = "Keeps `terraform destroy` from the database. Switch it off for a trial only."
  type        = bool
  default     = true
}
