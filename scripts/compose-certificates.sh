#!/usr/bin/env bash
# Makes the certificates for docker-compose.tls.yml in .inferlane/tls: an authority, and one each for Kafka, the store and the API.
# What is there stays; to renew, remove the folder. Needs OpenSSL 3.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly FOLDER=.inferlane/tls
[[ ! -e $FOLDER/ca.crt ]] || exit 0
mkdir -p "$FOLDER"
# Nobody else of this machine enters. The files can be read: each container has a user of its own.
chmod 700 "$FOLDER"
cd "$FOLDER"

# Signs a certificate: NAME EXTENSIONS, then whose.
certificate() {
  local name="$1" extensions="$2"
  shift 2
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -sha256 -days 825 \
    -keyout "$name.key" -out "$name.crt" -subj "/CN=$name" "$@" \
    -config <(printf '[req]\ndistinguished_name=dn\nx509_extensions=x\n[dn]\n[x]\n%b' "$extensions") 2>/dev/null
  chmod 644 "$name.key" "$name.crt"
}

readonly KEY_IDS='subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n'
certificate ca "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n$KEY_IDS"
for service in kafka valkey api; do
  certificate "$service" "basicConstraints=critical,CA:FALSE\nsubjectAltName=DNS:$service,DNS:localhost,IP:127.0.0.1\n$KEY_IDS" \
    -CA ca.crt -CAkey ca.key
done
# Kafka wants key and certificate in one file.
cat kafka.key kafka.crt >kafka.pem
chmod 644 kafka.pem
# Nothing more is signed with it.
rm ca.key
