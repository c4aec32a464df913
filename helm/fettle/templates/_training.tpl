{{/* training.yaml, as service/executors/kubernetes_settings.py reads it: the values, and what others of them say. */}}
{{- define "fettle.training" -}}
{{- $training := deepCopy .Values.training -}}
{{- $_ := set $training "instance" (include "fettle.trainingInstance" .) -}}
{{- $_ := set $training "namespace" (include "fettle.trainingNamespace" .) -}}
{{- $_ := set $training "image" (include "fettle.image" (list . .Values.images.trainer)) -}}
{{- $_ := set $training "imagePullPolicy" .Values.images.pullPolicy -}}
{{- $_ := set $training "imagePullSecrets" .Values.images.pullSecrets -}}
{{- $_ := set $training "serviceAccountName" (include "fettle.trainingName" .) -}}
{{- $env := concat (include "fettle.trainingVariables" . | fromYamlArray) (.Values.training.env | default list) -}}
{{- $_ := set $training "env" (default list $env) -}}
{{- if include "fettle.usesModelCache" . -}}
{{- if and (ne (include "fettle.trainingNamespace" .) .Release.Namespace) (not .Values.modelCache.existingClaim) -}}
{{- fail "training.namespace is not the release's: make a volume with the models there and here, name its claim in modelCache.existingClaim, or set modelCache.enabled=false" -}}
{{- end -}}
{{- $_ := set $training "modelCache" (dict "claimName" (include "fettle.modelCacheClaim" .) "mountPath" .Values.modelCache.mountPath) -}}
{{- end -}}
{{- toYaml $training -}}
{{- end -}}

{{/* Secrets by reference; where storage is comes from the service. */}}
{{- define "fettle.trainingVariables" -}}
{{- include "fettle.storageCredentials" .Values.storage.training }}
{{- if .Values.wandb.existingSecret }}
{{ include "fettle.secretVariable" (list "WANDB_API_KEY" .Values.wandb.existingSecret .Values.wandb.key) }}
{{- end }}
{{- if include "fettle.downloadsModels" . }}
{{- include "fettle.hubToken" . }}
{{- end }}
{{- end -}}
