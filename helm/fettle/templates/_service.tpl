{{/* API and dispatcher: the same image and nearly the same settings. */}}

{{/* (root, role) */}}
{{- define "fettle.serviceVariables" -}}
{{- $root := index . 0 -}}
{{- $role := index . 1 -}}
{{- with $root.Values -}}
- name: FETTLE_ROLE
  value: {{ $role }}
- name: FETTLE_OPS_PORT
  value: "8001"
- name: FETTLE_DATA_DIR
  value: /tmp/fettle
- name: FETTLE_MIGRATIONS
  value: checked
{{ include "fettle.databaseVariable" $root }}
- name: FETTLE_MODELS_FILE
  value: /etc/fettle/models.yaml
- name: FETTLE_EXECUTOR
  value: kubernetes
- name: FETTLE_KUBERNETES_FILE
  value: /etc/fettle/training.yaml
- name: FETTLE_STORAGE_URI
  value: {{ include "fettle.storageUri" $root | quote }}
{{- with .storage.endpointUrl }}
- name: FETTLE_S3_ENDPOINT_URL
  value: {{ . | quote }}
{{- end }}
{{- with .storage.region }}
- name: FETTLE_S3_REGION
  value: {{ . | quote }}
{{- end }}
{{- with .storage.addressingStyle }}
- name: FETTLE_S3_ADDRESSING_STYLE
  value: {{ . }}
{{- end }}
{{- include "fettle.storageCredentials" .storage.service }}
{{- $urls := include "fettle.vllmUrls" $root }}
- name: FETTLE_SERVING
  value: {{ eq $urls "{}" | ternary "off" "remote" | quote }}
{{- if ne $urls "{}" }}
- name: FETTLE_VLLM_URLS
  value: {{ $urls | quote }}
{{ include "fettle.secretVariable" (list "FETTLE_VLLM_API_KEY" (include "fettle.vllmKeySecret" $root) .serving.apiKey.key) }}
{{- end }}
{{- range $name, $value := .settings }}
- name: FETTLE_{{ upper $name }}
  value: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }}
{{- end }}
{{- if .wandb.existingSecret }}
{{ include "fettle.secretVariable" (list "FETTLE_WANDB_API_KEY" .wandb.existingSecret .wandb.key) }}
{{- end }}
{{- if .grader.existingSecret }}
{{ include "fettle.secretVariable" (list "FETTLE_GRADER_API_KEY" .grader.existingSecret .grader.key) }}
{{- end }}
{{- if eq $role "dispatcher" }}{{/* It renders rows with the model's tokenizer; the API reads no model. */}}
{{- include "fettle.modelVariables" $root }}
{{- end }}
{{- with .extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}
{{- end -}}

{{- define "fettle.databaseVariable" -}}
{{- $secret := required "database.existingSecret must name a Secret with the address of your PostgreSQL, such as postgresql+psycopg://user:password@host:5432/fettle; this chart brings no database (docs/kubernetes.md)" .Values.database.existingSecret -}}
{{- include "fettle.secretVariable" (list "FETTLE_DATABASE_URL" $secret .Values.database.key) -}}
{{- end -}}

{{- define "fettle.storageUri" -}}
{{- $uri := required "storage.uri must name your bucket, such as s3://bucket/fettle; this chart brings no object storage (docs/kubernetes.md)" .Values.storage.uri -}}
{{- if and $uri (not (regexMatch "^s3://[^/ ]+" $uri)) -}}
{{- fail (printf "storage.uri is %q, but pods share nothing but S3: name s3://bucket or s3://bucket/prefix" $uri) -}}
{{- end -}}
{{- trimSuffix "/" $uri -}}
{{- end -}}

{{/* Deployments roll when this changes. */}}
{{- define "fettle.serviceChecksums" -}}
checksum/catalogue: {{ printf "%s%s" (include "fettle.catalogue" .) (toJson .Values.chatTemplates) | sha256sum }}
checksum/training: {{ include "fettle.training" . | sha256sum }}
{{- end -}}

{{/* (root, role, its values): what both Deployments' pods are made of. */}}
{{- define "fettle.servicePod" -}}
{{- $root := index . 0 -}}
{{- $role := index . 1 -}}
{{- $own := index . 2 -}}
serviceAccountName: {{ include "fettle.fullname" $root }}-{{ $role }}
{{ include "fettle.placement" (list $root $own) }}
topologySpreadConstraints:
  {{- include "fettle.topologySpread" (list $root $role $own.topologySpreadConstraints (list "topology.kubernetes.io/zone" "kubernetes.io/hostname")) | trim | nindent 2 }}
volumes:
  - name: tmp
    emptyDir: {sizeLimit: {{ $own.scratchSize }}}
  {{- include "fettle.catalogueVolume" $root | nindent 2 }}
  - name: training
    configMap:
      name: {{ include "fettle.fullname" $root }}-training
  {{- if eq $role "dispatcher" }}
  {{- with include "fettle.modelVolume" $root | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- end }}
  {{- with $root.Values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* (root, role, its values): without name, lifecycle and what only the API has. */}}
{{- define "fettle.serviceContainer" -}}
{{- $root := index . 0 -}}
{{- $role := index . 1 -}}
{{- $own := index . 2 -}}
image: {{ include "fettle.image" (list $root $root.Values.images.service) }}
imagePullPolicy: {{ $root.Values.images.pullPolicy }}
args: [serve]
{{- with $root.Values.extraEnvFrom }}
envFrom: {{- toYaml . | nindent 2 }}
{{- end }}
# Until the database fits (`fettle migrate`), and the first answer.
startupProbe:
  httpGet: {path: /livez, port: ops}
  periodSeconds: 5
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /livez, port: ops}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: ops}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 3
resources: {{- toYaml $own.resources | nindent 2 }}
securityContext: {{- toYaml $root.Values.containerSecurityContext | nindent 2 }}
terminationMessagePolicy: FallbackToLogsOnError
volumeMounts:
  - name: tmp
    mountPath: /tmp
  {{- include "fettle.catalogueMounts" $root | nindent 2 }}
  - name: training
    mountPath: /etc/fettle/training.yaml
    subPath: training.yaml
    readOnly: true
  {{- if eq $role "dispatcher" }}
  {{- with include "fettle.modelMount" $root | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- end }}
  {{- with $root.Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}
