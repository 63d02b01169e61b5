#!/usr/bin/env bash
# kcat over SASL_SSL. `send FILE` sends each line, `MODEL BODY`, to inferlane.bulk; `read` prints the results that are
# there as headers, a tab and the value. BROKER, CA, KAFKA_USER and KAFKA_PASSWORD say how to connect.
set -euo pipefail
access=(
  -b "$BROKER" -X security.protocol=SASL_SSL -X sasl.mechanisms=SCRAM-SHA-512 -X "sasl.username=$KAFKA_USER"
  -X "sasl.password=$KAFKA_PASSWORD" -X "ssl.ca.location=$CA"
)
if [[ $1 == read ]]; then
  exec kcat "${access[@]}" -C -t inferlane.results -o beginning -e -f '%h\t%s\n'
fi
while read -r model body; do
  kcat "${access[@]}" -P -t inferlane.bulk -H "ce_id=kcat-$model" -H "ce_model=$model" -H ce_modelversion=v1 <<<"$body"
done <"$2"
