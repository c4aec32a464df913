{{/* Names and labels. Whatever is made from a name fits into 63 characters, whatever the release is called. */}}

{{- define "fettle.fullname" -}}
{{- $default := eq .Release.Name "fettle" | ternary "fettle" (printf "%s-fettle" .Release.Name) -}}
{{- $name := .Values.fullnameOverride | default $default | replace "." "-" -}}
{{- if not (regexMatch "^[a-z]([a-z0-9-]*[a-z0-9])?$" $name) -}}
{{- fail (printf "No Service can be called %q: set fullnameOverride to a name of lower-case letters, digits and '-' that begins with a letter." $name) -}}
{{- end -}}
{{- include "fettle.short" (list $name 40) -}}
{{- end -}}

{{/* (name, longest): the name itself, or its beginning and a hash. */}}
{{- define "fettle.short" -}}
{{- $name := index . 0 -}}
{{- $longest := index . 1 -}}
{{- if le (len $name) $longest -}}
{{- $name -}}
{{- else -}}
{{- printf "%s-%s" (trunc (int (sub $longest 9)) $name | trimSuffix "-") (sha256sum $name | trunc 8) -}}
{{- end -}}
{{- end -}}

{{/* (root, component): what Deployments select by. It must never change: selectors are immutable. */}}
{{- define "fettle.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: fettle
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* (root, component): of objects, and of pods, which therefore have no version of the chart. */}}
{{- define "fettle.podLabels" -}}
{{- $root := index . 0 -}}
{{ include "fettle.selector" . }}
{{- with $root.Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "fettle.labels" -}}
{{- $root := index . 0 -}}
{{ include "fettle.podLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "fettle.trainingNamespace" -}}
{{- .Values.training.namespace | default .Release.Namespace -}}
{{- end -}}

{{/* Of objects in the trainers' namespace, where another release of another namespace may be, too. */}}
{{- define "fettle.trainingName" -}}
{{- $name := printf "%s-training" (include "fettle.fullname" .) -}}
{{- if ne (include "fettle.trainingNamespace" .) .Release.Namespace -}}
{{- $name = printf "%s-%s" $name (sha256sum .Release.Namespace | trunc 8) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{/* The label by which the dispatcher knows its own Jobs. */}}
{{- define "fettle.trainingInstance" -}}
{{- if eq (include "fettle.trainingNamespace" .) .Release.Namespace -}}
{{- .Release.Name -}}
{{- else -}}
{{- include "fettle.short" (list (printf "%s.%s" .Release.Name .Release.Namespace) 63) -}}
{{- end -}}
{{- end -}}

{{/* Selects training pods, as service/executors/kubernetes_manifest.py labels them. */}}
{{- define "fettle.trainingSelector" -}}
app.kubernetes.io/managed-by: fettle
app.kubernetes.io/component: trainer
app.kubernetes.io/instance: {{ include "fettle.trainingInstance" . | quote }}
{{- end -}}

{{- define "fettle.vllmKeySecret" -}}
{{- .Values.serving.apiKey.existingSecret | default (printf "%s-vllm" (include "fettle.fullname" .)) -}}
{{- end -}}

{{- define "fettle.modelCacheClaim" -}}
{{- .Values.modelCache.existingClaim | default (printf "%s-models" (include "fettle.fullname" .)) -}}
{{- end -}}

{{/* (root, image): the image's full name. */}}
{{- define "fettle.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $registry := required "images.registry must name the registry with the images that you built (docs/images.md), such as registry.example.com/fettle" $root.Values.images.registry -}}
{{- $repository := printf "%s/%s" (trimSuffix "/" $registry) $image.repository -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository ($image.tag | default $root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}
