{{- /* Names as control_plane/kubernetes/deployment_plan.py makes them; CI compares. */ -}}
{{- define "inferlane.objectName" -}}
{{- regexReplaceAll "[^a-z0-9.-]" (lower .) "-" -}}
{{- end -}}

{{- define "inferlane.withinLabel" -}}
{{- if le (len .name) 63 -}}
{{- .name -}}
{{- else -}}
{{- printf "%s-%s" (regexReplaceAll "[-._]+$" (trunc 52 .name) "") (trunc 10 (sha256sum .of)) -}}
{{- end -}}
{{- end -}}

{{- define "inferlane.poolName" -}}
{{- $kept := ternary .version (printf "%s-%s" .model .version) (eq .model "iris") -}}
{{- $name := include "inferlane.objectName" (printf "inference-service-%s" $kept) | replace "." "-" -}}
{{- include "inferlane.withinLabel" (dict "name" $name "of" (printf "%s/%s" .model .version)) -}}
{{- end -}}

{{- define "inferlane.poolInstance" -}}
{{- $name := printf "worker-%s-%s" .model .version -}}
{{- include "inferlane.withinLabel" (dict "name" $name "of" (printf "%s/%s" .model .version)) -}}
{{- end -}}
