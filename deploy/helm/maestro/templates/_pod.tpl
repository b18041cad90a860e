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
  {{- include "maestro.security" . | nindent 2 }}
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- /* As the others, but for what the cage needs. Kubernetes takes it in a pod with a user namespace of its own only. */}}
{{- define "maestro.cagedContainer" -}}
image: {{ include "maestro.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  {{- include "maestro.security" . | nindent 2 }}
  procMount: Unmasked
  seccompProfile: {type: Unconfined}
{{- end }}

{{- define "maestro.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
capabilities: {drop: [ALL]}
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

{{- define "maestro.placement" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 8 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 8 }}
{{- end }}
{{- end }}

{{- define "maestro.keyContainer" -}}
# A volume of a Secret can be read by its group, which Maestro refuses of a key. The copy is in memory only.
- name: key
  {{- include "maestro.container" . | nindent 2 }}
  command: [/bin/sh, -ec]
  args:
    - |
      umask 077
      cp /secret/maestro.pem /keys/maestro.pem
      cp /secret/maestro.pub.pem /keys/maestro.pub.pem
      chmod 0600 /keys/maestro.pem
      chmod 0644 /keys/maestro.pub.pem
  resources:
    requests: {cpu: 10m, memory: 16Mi}
    limits: {memory: 64Mi}
  volumeMounts:
    - {name: secret, mountPath: /secret, readOnly: true}
    - {name: keys, mountPath: /keys}
{{- end }}

{{- define "maestro.volumes" -}}
- name: secret
  secret:
    secretName: {{ .Values.secrets.signingKey.name }}
    defaultMode: 0440
- name: keys
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
- name: tmp
  emptyDir: {sizeLimit: 4Gi}
{{- end }}

{{- define "maestro.mounts" -}}
- {name: home, mountPath: /state}
- {name: keys, mountPath: /state/keys, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- end }}

{{- /* A pod that does one thing to the records and the stores: (dict "root" $ "name" ... "args" (list ...)).
Its home is its own: what loops share lies in the database and the object stores. */}}
{{- define "maestro.errand" -}}
restartPolicy: Never
serviceAccountName: {{ .root.Release.Name }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext: {{- include "maestro.podSecurity" .root | nindent 2 }}
{{- include "maestro.placement" .root | nindent 0 }}
initContainers:
  {{- include "maestro.keyContainer" .root | nindent 2 }}
containers:
  - name: {{ .name }}
    {{- include "maestro.container" .root | nindent 4 }}
    args: {{- toYaml .args | nindent 6 }}
    env:
      {{- include "maestro.environment" .root | nindent 6 }}
      {{- with .root.Values.backup.passphrase }}
      - name: MAESTRO_SECRET_BACKUP_PASSPHRASE
        valueFrom:
          secretKeyRef: {name: {{ .name }}, key: {{ .key }}}
      {{- end }}
    {{- with include "maestro.environmentFrom" .root }}
    envFrom: {{- . | nindent 6 }}
    {{- end }}
    resources:
      requests: {cpu: 250m, memory: 512Mi}
      limits: {memory: 2Gi}
    volumeMounts:
      {{- include "maestro.mounts" .root | nindent 6 }}
volumes:
  {{- include "maestro.volumes" .root | nindent 2 }}
  - name: home
    emptyDir: {}
{{- end }}
