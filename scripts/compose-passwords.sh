#!/usr/bin/env bash
# Writes .env for docker-compose.yml: a random password of the store and of each user of Kafka, and the secret
# that callbacks are signed with. What is there stays.
set -euo pipefail
cd "$(dirname "$0")/.."

umask 077
touch .env
for name in INFERLANE_REDIS_PASSWORD KAFKA_PASSWORD_{ADMIN,API,ROUTER,WORKER,WEBHOOKS,OPERATOR} WEBHOOK_SECRET; do
  # Hexadecimal: no character of it means anything to Compose, Kafka or Valkey.
  grep -q "^$name=." .env || printf '%s=%s\n' "$name" "$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')" >>.env
done
