{{/* The base models: the catalogue that pods read, and which of them are served. */}}

{{- define "fettle.models" -}}
{{- if not .Values.models -}}
{{- fail "models must name the base models that can be tuned; values.yaml shows how an entry looks, and the files in profiles/ have some" -}}
{{- end -}}
{{- $names := dict -}}
{{- range .Values.models -}}
{{- include "fettle.checkModel" (list $ .) -}}
{{- $slug := include "fettle.modelSlug" (list $ .name) -}}
{{- if hasKey $names $slug -}}
{{- fail (printf "models: %s and %s would share objects called %s; rename one" (get $names $slug) .name $slug) -}}
{{- end -}}
{{- $_ := set $names $slug .name -}}
{{- end -}}
{{- end -}}

{{/* (root, entry) */}}
{{- define "fettle.checkModel" -}}
{{- $root := index . 0 -}}
{{- $model := index . 1 -}}
{{- if hasPrefix "./" ($model.source | default "") -}}
{{- fail (printf "models: the source of %s is relative to nothing in a pod; name a folder of the images, such as /opt/fettle/base_models/fettle-tiny, or a Hugging Face id" $model.name) -}}
{{- end -}}
{{- $template := $model.chat_template | default "" -}}
{{- if and (hasPrefix "./" $template) (not (hasKey $root.Values.chatTemplates (trimPrefix "./" $template))) -}}
{{- fail (printf "models: %s has the chat_template %s, which is not in chatTemplates" $model.name $template) -}}
{{- end -}}
{{- if and (gt (int (dig "training" "nodes" 1 $model)) 1) (not $root.Values.multiNode.enabled) -}}
{{- fail (printf "models: %s trains on several nodes; that needs multiNode.enabled" $model.name) -}}
{{- end -}}
{{- end -}}

{{/* models.yaml: the entries without what is only of this chart. */}}
{{- define "fettle.catalogue" -}}
{{- include "fettle.models" . -}}
models:
{{- range .Values.models }}
  {{- toYaml (list (omit . "serving")) | nindent 2 }}
{{- end }}
{{- end -}}

{{/* (root, entry): `serving.defaults`, and what the model says itself, as JSON. */}}
{{- define "fettle.servingOf" -}}
{{- $root := index . 0 -}}
{{- $serving := deepCopy $root.Values.serving.defaults -}}
{{- range $key, $value := (index . 1).serving -}}
{{- $_ := set $serving $key $value -}}
{{- end -}}
{{- toJson $serving -}}
{{- end -}}

{{/* The entries that are served, as JSON: {"models": […]} */}}
{{- define "fettle.servedModels" -}}
{{- $served := list -}}
{{- range .Values.models -}}
{{- if (include "fettle.servingOf" (list $ .) | fromJson).enabled -}}
{{- $served = append $served . -}}
{{- end -}}
{{- end -}}
{{- dict "models" $served | toJson -}}
{{- end -}}

{{/* (root, model's name): fit for an object's name behind `<fullname>-vllm-`. */}}
{{- define "fettle.modelSlug" -}}
{{- $slug := index . 1 | lower | replace "." "-" | replace "_" "-" | trimSuffix "-" -}}
{{- include "fettle.short" (list $slug (int (sub 57 (len (include "fettle.fullname" (index . 0)))))) -}}
{{- end -}}

{{- define "fettle.vllmName" -}}
{{- printf "%s-vllm-%s" (include "fettle.fullname" (index . 0)) (include "fettle.modelSlug" .) -}}
{{- end -}}

{{/* JSON: name in the catalogue → address. */}}
{{- define "fettle.vllmUrls" -}}
{{- $urls := dict -}}
{{- range (include "fettle.servedModels" . | fromJson).models -}}
{{- $_ := set $urls .name (printf "http://%s.%s.svc:8000" (include "fettle.vllmName" (list $ .name)) $.Release.Namespace) -}}
{{- end -}}
{{- toJson $urls -}}
{{- end -}}

{{/* Not empty: a model comes from the Hugging Face hub. */}}
{{- define "fettle.hasHubModels" -}}
{{- range .Values.models -}}
{{- if not (hasPrefix "/" (.source | default "/")) -}}yes{{- end -}}
{{- end -}}
{{- end -}}

{{/* Not empty: pods find the hub's models in the cache. */}}
{{- define "fettle.usesModelCache" -}}
{{- if .Values.modelCache.enabled -}}{{- include "fettle.hasHubModels" . -}}{{- end -}}
{{- end -}}

{{/* Not empty: pods that need a model download it. */}}
{{- define "fettle.downloadsModels" -}}
{{- if not .Values.modelCache.enabled -}}{{- include "fettle.hasHubModels" . -}}{{- end -}}
{{- end -}}
