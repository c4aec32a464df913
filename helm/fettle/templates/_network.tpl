{{/* Parts of NetworkPolicies. */}}

{{- define "fettle.dnsEgress" -}}
- to: {{- toYaml .Values.networkPolicies.dns | nindent 4 }}
  ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- end -}}

{{/* The Internet: neither private addresses nor a cloud's metadata server. */}}
{{- define "fettle.internet" -}}
- ipBlock:
    cidr: 0.0.0.0/0
    except: [10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16]
- ipBlock:
    cidr: "::/0"
    except: ["::1/128", "fc00::/7", "fe80::/10"]
{{- end -}}

{{/* Where object storage is: as networkPolicies.storage says, else from the endpoint. */}}
{{- define "fettle.storageEgress" -}}
{{- $endpoint := urlParse (.Values.storage.endpointUrl | default "https://s3.amazonaws.com") -}}
{{- $isService := regexMatch "^[^.]+[.][^.]+[.]svc([.]|$)" $endpoint.hostname -}}
{{- $port := regexFind "[0-9]+$" (trimPrefix $endpoint.hostname $endpoint.host | trimPrefix "[" | trimPrefix $endpoint.hostname | trimPrefix "]") -}}
{{- $port = $port | default (eq $endpoint.scheme "http" | ternary "80" "443") -}}
{{- with .Values.networkPolicies.storage -}}
{{- if .to }}
- to: {{- toYaml .to | nindent 4 }}
{{- else if $isService }}
- to:
    - namespaceSelector:
        matchLabels: {kubernetes.io/metadata.name: {{ index (splitList "." $endpoint.hostname) 1 }}}
{{- else if regexMatch "^[0-9.]+$" $endpoint.hostname }}
- to:
    - ipBlock: {cidr: {{ $endpoint.hostname }}/32}
{{- else if contains ":" $endpoint.hostname }}
- to:
    - ipBlock: {cidr: "{{ $endpoint.hostname }}/128"}
{{- else }}
- to: {{- include "fettle.internet" $ | nindent 4 }}
{{- end }}
{{- if .ports }}
  ports: {{- toYaml .ports | nindent 4 }}
{{- else if or .to (not $isService) }}
  ports:
    - {port: {{ $port }}, protocol: TCP}
{{- end }}
{{- end -}}
{{- end -}}

{{/* The hub, for pods that download models; and W&B's own server. */}}
{{- define "fettle.internetEgress" -}}
- to: {{- include "fettle.internet" . | nindent 4 }}
  ports:
    - {port: 443, protocol: TCP}
{{- end -}}

{{/* Of API and dispatcher; ends in the list of ingress rules. */}}
{{- define "fettle.servicePolicy" -}}
{{- with .Values.networkPolicies.serviceEgress -}}
policyTypes: [Ingress, Egress]
egress:
  {{- include "fettle.dnsEgress" $ | nindent 2 }}
  - to:
      - podSelector:
          matchLabels: {{- include "fettle.selector" (list $ "vllm") | nindent 12 }}
    ports:
      - {port: 8000, protocol: TCP}
  {{- toYaml . | nindent 2 }}
{{- else -}}
policyTypes: [Ingress]
{{- end }}
ingress:
  - ports:
      - {port: ops, protocol: TCP}
    from:
      - podSelector:
          matchLabels: {{- include "fettle.selector" (list . "test") | nindent 12 }}
      {{- with .Values.networkPolicies.metricsFrom }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
{{- end -}}
