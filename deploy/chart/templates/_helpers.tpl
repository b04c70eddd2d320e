{{/* The name of every object of this release. */}}
{{- define "sandbox-service.name" -}}
{{- $name := ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) (contains .Chart.Name .Release.Name) -}}
{{- $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{/* What selects the pods that serve. */}}
{{- define "sandbox-service.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end -}}

{{/* The labels of every object. */}}
{{- define "sandbox-service.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "sandbox-service.image" -}}
{{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end -}}

{{/* The Pod Security "restricted" profile. The group can read the files of Secrets, and write to the disk. */}}
{{- define "sandbox-service.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1001
runAsGroup: 1001
fsGroup: 1001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "sandbox-service.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* What a pod needs to reach the database; the migration needs no more. */}}
{{- define "sandbox-service.databaseEnv" -}}
- {name: SANDBOX_ENGINE, value: kubernetes}
- {name: SANDBOX_DATA_DIR, value: /data}
{{- if .Values.database.secret }}
- name: SANDBOX_DATABASE_URL
  valueFrom:
    secretKeyRef: {{ dict "name" .Values.database.secret "key" .Values.database.key | toJson }}
{{- end }}
{{- end -}}

{{/* The whole environment: what the chart decides, and the settings. A `$` is doubled, or Kubernetes would expand it. */}}
{{- define "sandbox-service.env" -}}
{{ include "sandbox-service.databaseEnv" . }}
- {name: SANDBOX_LISTEN, value: "0.0.0.0:50051"}
- {name: SANDBOX_METRICS_LISTEN, value: "0.0.0.0:9090"}
# Metrics and probes have no TLS. Calls have it with tls.secret; without, allowPlaintext is required.
- {name: SANDBOX_ALLOW_PLAINTEXT, value: "true"}
{{- with .Values.terminals.url }}
- {name: SANDBOX_ACCESS_LISTEN, value: "0.0.0.0:8443"}
- {name: SANDBOX_ACCESS_URL, value: {{ . | quote }}}
{{- end }}
{{- if .Values.tls.secret }}
- {name: SANDBOX_TLS_CERT, value: /run/secrets/sandbox-service/tls/tls.crt}
- {name: SANDBOX_TLS_KEY, value: /run/secrets/sandbox-service/tls/tls.key}
{{- end }}
{{- if .Values.keys.secret }}
- {name: SANDBOX_ENCRYPTION_KEY_FILE, value: /run/secrets/sandbox-service/keys/env.keys}
{{- end }}
{{- if .Values.tokens.secret }}
- {name: SANDBOX_TOKEN_FILE, value: /run/secrets/sandbox-service/tokens/tenants.json}
{{- else }}
- {name: SANDBOX_ALLOW_ANONYMOUS, value: "true"}
- {name: SANDBOX_NAMESPACES, value: {{ join "," .Values.tenantNamespaces | quote }}}
{{- end }}
{{- range $name, $value := .Values.settings }}
{{- $text := $value }}
{{- if and (kindIs "slice" $value) (not (kindIs "map" (first $value))) }}
{{- $text = join "," $value }}
{{- else if not (kindIs "string" $value) }}
{{- $text = toJson $value }}
{{- end }}
- {name: SANDBOX_{{ $name | replace "-" "_" | upper }}, value: {{ $text | replace "$" "$$" | quote }}}
{{- end }}
{{- end -}}

{{/* The Secrets by the folder that each is mounted at, below /run/secrets/sandbox-service. */}}
{{- define "sandbox-service.secrets" -}}
{{- $found := dict "database" .Values.database.ca "keys" .Values.keys.secret "tls" .Values.tls.secret "tokens" .Values.tokens.secret -}}
{{- range $folder, $secret := $found }}
{{- if not $secret }}{{ $found = unset $found $folder }}{{ end }}
{{- end }}
{{- toJson $found -}}
{{- end -}}

{{- define "sandbox-service.databaseMounts" -}}
- {name: data, mountPath: /data}
- {name: tmp, mountPath: /tmp}
{{- if .Values.database.ca }}
- {name: database, mountPath: /run/secrets/sandbox-service/database, readOnly: true}
{{- end }}
{{- end -}}

{{- define "sandbox-service.mounts" -}}
- {name: data, mountPath: /data}
- {name: tmp, mountPath: /tmp}
{{- range $folder, $_ := include "sandbox-service.secrets" . | fromJson }}
- {name: {{ $folder }}, mountPath: /run/secrets/sandbox-service/{{ $folder }}, readOnly: true}
{{- end }}
{{- end -}}

{{/* Files of Secrets belong to root and the pod's fsGroup, which is the group of the service. */}}
{{- define "sandbox-service.volumes" -}}
- {name: tmp, emptyDir: {}}
{{- range $folder, $secret := include "sandbox-service.secrets" . | fromJson }}
- {name: {{ $folder }}, secret: {secretName: {{ $secret | quote }}, defaultMode: 0440}}
{{- end }}
{{- end -}}

{{/* What the fields of the schema cannot say, each refusal with what to do. */}}
{{- define "sandbox-service.check" -}}
{{- $db := .Values.database -}}
{{- if and $db.secret $db.sqlite.enabled }}
{{- fail "database: give database.secret (PostgreSQL) or database.sqlite.enabled, not both" }}
{{- else if not (or $db.secret $db.sqlite.enabled) }}
{{- fail "database: give database.secret, a Secret with the URL of PostgreSQL, or database.sqlite.enabled=true for one replica" }}
{{- end }}
{{- if and $db.sqlite.enabled (ne (int .Values.replicas) 1) }}
{{- fail (printf "replicas: %d replicas cannot share SQLite: give replicas=1, or database.secret for PostgreSQL" (int .Values.replicas)) }}
{{- end }}
{{- if not (or .Values.keys.secret $db.sqlite.enabled) }}
{{- fail "keys.secret: PostgreSQL needs a Secret with env.keys, the encryption keys that the replicas share" }}
{{- end }}
{{- if not (or .Values.tls.secret .Values.allowPlaintext) }}
{{- fail "tls.secret: give a Secret of the type kubernetes.io/tls, or allowPlaintext=true to serve without TLS" }}
{{- end }}
{{- if not (or .Values.tokens.secret .Values.allowAnonymous) }}
{{- fail "tokens.secret: give a Secret with tenants.json, or allowAnonymous=true to serve everybody" }}
{{- end }}
{{- if and .Values.tokens.secret .Values.allowAnonymous }}
{{- fail "allowAnonymous: tokens.secret is given, so that every call needs a token: give only one of them" }}
{{- end }}
{{- $instead := dict
  "access-listen" "terminals.url"
  "access-url" "terminals.url"
  "allow-anonymous" "allowAnonymous"
  "allow-plaintext" "allowPlaintext"
  "database-url" "database.secret"
  "data-dir" "database.sqlite"
  "encryption-keys" "keys.secret"
  "encryption-key-file" "keys.secret"
  "engine" ""
  "kubeconfig" ""
  "listen" "service.port"
  "metrics-listen" ""
  "namespaces" "tenantNamespaces"
  "tls-cert" "tls.secret"
  "tls-key" "tls.secret"
  "token-file" "tokens.secret"
}}
{{- range $name, $_ := .Values.settings }}
{{- if hasKey $instead $name }}
{{- $value := get $instead $name }}
{{- fail (printf "settings.%s: the chart sets it%s" $name (ternary (printf " from %s: give that" $value) ": leave it out" (ne $value ""))) }}
{{- else if hasPrefix "local-" $name }}
{{- fail (printf "settings.%s: the local engine does not run in a cluster: leave it out" $name) }}
{{- end }}
{{- end }}
{{- end -}}
