#!/usr/bin/env bash
# Installs the Debian packages named, those that are missing; seconds when all are there. Debian or Ubuntu, root.
# An installation that was interrupted before is finished first: apt-get refuses to work beside one.
set -euo pipefail

missing=()
for package in "$@"; do
  [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
done
((${#missing[@]})) || exit 0

# RUNLEVEL=1: a package's service is not started; the tests start their own.
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
dpkg --configure -a >/dev/null
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
