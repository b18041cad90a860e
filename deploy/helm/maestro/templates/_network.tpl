{{- /* The address of an IPv4 block as a number: "10.1.0.0/16" -> 167837696. */}}
{{- define "maestro.address" -}}
{{- $number := 0 }}
{{- range splitList "." (first (splitList "/" .)) }}
{{- $number = add (mul $number 256) (int .) }}
{{- end }}
{{- $number }}
{{- end }}

{{- /* Those of `excepts` that lie inside `cidr`, as a JSON list: Kubernetes refuses a policy with any other. */}}
{{- define "maestro.excepts" -}}
{{- $found := list }}
{{- $bits := int (last (splitList "/" .cidr)) }}
{{- $size := 1 }}
{{- range until (sub 32 $bits | int) }}
{{- $size = mul $size 2 }}
{{- end }}
{{- range .excepts }}
{{- $narrower := gt (int (last (splitList "/" .))) $bits }}
{{- if and (contains ":" .) (contains ":" $.cidr) }}
{{- if ne $.cidr "::/0" }}
{{- fail "networkPolicy.egressExcept: an IPv6 block can be taken out of ::/0 only; name the parts of others in egressCidrs" }}
{{- end }}
{{- $found = append $found . }}
{{- else if and $narrower (not (contains ":" .)) (not (contains ":" $.cidr)) }}
{{- $theirs := div (include "maestro.address" . | int64) $size }}
{{- $ours := div (include "maestro.address" $.cidr | int64) $size }}
{{- if eq $theirs $ours }}
{{- $found = append $found . }}
{{- end }}
{{- end }}
{{- end }}
{{- toJson $found }}
{{- end }}
