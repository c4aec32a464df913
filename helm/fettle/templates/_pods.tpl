{{/* What pods have in common. */}}

{{/* (variable, secret, key) */}}
{{- define "fettle.secretVariable" -}}
- name: {{ index . 0 }}
  valueFrom:
    secretKeyRef:
      name: {{ index . 1 }}
      key: {{ index . 2 }}
{{- end -}}

{{/* An access key of storage.service, .training or .serving. */}}
{{- define "fettle.storageCredentials" -}}
{{- if .existingSecret }}
{{ include "fettle.secretVariable" (list "AWS_ACCESS_KEY_ID" .existingSecret .accessKeyIdKey) }}
{{ include "fettle.secretVariable" (list "AWS_SECRET_ACCESS_KEY" .existingSecret .secretAccessKeyKey) }}
{{- end }}
{{- end -}}

{{- define "fettle.hubToken" -}}
{{- with .Values.huggingFace }}
{{- if .existingSecret }}
{{ include "fettle.secretVariable" (list "HF_TOKEN" .existingSecret .key) }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Where a pod finds the hub's models. */}}
{{- define "fettle.modelVariables" -}}
{{- if include "fettle.usesModelCache" . }}
- name: HF_HOME
  value: {{ .Values.modelCache.mountPath }}
- name: HF_HUB_OFFLINE
  value: "1"
{{- else }}
- name: HF_HOME
  value: /tmp/huggingface
{{- if include "fettle.downloadsModels" . }}
{{- include "fettle.hubToken" . }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "fettle.modelMount" -}}
{{- if include "fettle.usesModelCache" . }}
- name: models
  mountPath: {{ .Values.modelCache.mountPath }}
  readOnly: true
{{- end }}
{{- end -}}

{{- define "fettle.modelVolume" -}}
{{- if include "fettle.usesModelCache" . }}
- name: models
  persistentVolumeClaim:
    claimName: {{ include "fettle.modelCacheClaim" . }}
{{- end }}
{{- end -}}

{{/* By subPath, so that a running pod keeps the files that it has read, whatever an upgrade brings. */}}
{{- define "fettle.catalogueMounts" -}}
- name: catalogue
  mountPath: /etc/fettle/models.yaml
  subPath: models.yaml
  readOnly: true
{{- range $file, $_ := .Values.chatTemplates }}
- name: catalogue
  mountPath: /etc/fettle/{{ $file }}
  subPath: {{ $file }}
  readOnly: true
{{- end }}
{{- end -}}

{{- define "fettle.catalogueVolume" -}}
- name: catalogue
  configMap:
    name: {{ include "fettle.fullname" . }}-catalogue
{{- end -}}

{{/* (root, component, topologySpreadConstraints, topologies) */}}
{{- define "fettle.topologySpread" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- if index . 2 -}}
{{ toYaml (index . 2) }}
{{- else -}}
{{- range index . 3 }}
- maxSkew: 1
  topologyKey: {{ . }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {{- include "fettle.selector" (list $root $component) | nindent 6 }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* (root, place): nodeSelector, tolerations, affinity, priorityClassName, runtimeClassName; and of all pods alike */}}
{{- define "fettle.placement" -}}
{{- $root := index . 0 -}}
{{- with index . 1 -}}
# A Service called fettle would become FETTLE_PORT in here.
enableServiceLinks: false
securityContext: {{- toYaml $root.Values.podSecurityContext | nindent 2 }}
{{- with $root.Values.images.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- end -}}
{{- end -}}
