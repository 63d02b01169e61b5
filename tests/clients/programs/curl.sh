#!/usr/bin/env bash
# curl --compressed: sends each line of the file $1, `MODEL BODY`, and prints the answers, one a line. The key comes as
# KEY; URL and CA say the rest.
set -euo pipefail
while read -r model body; do
  curl -sS --fail-with-body --compressed --cacert "$CA" --max-time 120 "$URL/v2/models/$model/versions/v1/infer" \
    -H "Authorization: Bearer $KEY" -H 'Content-Type: application/json' --data-binary @- <<<"$body"
  echo
done <"$1"
