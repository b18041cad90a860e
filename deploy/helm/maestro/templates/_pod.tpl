{{- define "maestro.labels" -}}
app.kubernetes.io/name: maestro
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "maestro.selector" -}}
app.kubernetes.io/name: maestro
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: loop
{{- end }}

{{- define "maestro.image" -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- end }}

{{- define "maestro.container" -}}
image: {{ include "maestro.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  capabilities: {drop: [ALL]}
  {{- if .Values.cage.enabled }}
  procMount: Unmasked
  seccompProfile: {type: Unconfined}
  {{- else }}
  seccompProfile: {type: RuntimeDefault}
  {{- end }}
{{- end }}

{{- define "maestro.environment" -}}
- name: MAESTRO_DATABASE
  valueFrom:
    secretKeyRef:
      name: {{ .Values.secrets.database.name }}
      key: {{ .Values.secrets.database.key }}
- {name: MAESTRO_ARTIFACT_STORE, value: {{ .Values.stores.artifacts | quote }}}
- {name: MAESTRO_EVIDENCE, value: {{ .Values.stores.evidence | quote }}}
- {name: MAESTRO_LAKE, value: {{ .Values.stores.lake | quote }}}
- {name: MAESTRO_LOG_FORMAT, value: json}
{{- with .Values.serverHosts }}
- {name: MAESTRO_SERVER_HOSTS, value: {{ join "," . | quote }}}
{{- end }}
{{- range $name, $value := .Values.settings }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{- define "maestro.environmentFrom" -}}
{{- range .Values.secrets.environment }}
- secretRef: {name: {{ . }}}
{{- end }}
{{- end }}

{{- define "maestro.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
{{- end }}
