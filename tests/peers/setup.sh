#!/usr/bin/env bash
# Installs what output is tested against: Debian's Alertmanager, openssl for a CA of our own, and, below target/peers/,
# aiosmtpd and jsonschema from PyPI in a virtual environment and the schema of SARIF, which a crate carries. What cannot be
# installed is told, and its tests say "skipped".
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

peers=${WHYSTALL_PEERS:-target/peers}
aiosmtpd=1.4.6
jsonschema=4.26.0
serde_sarif=0.8.0

missing=()
command -v openssl >/dev/null || missing+=(openssl)
command -v python3 >/dev/null || missing+=(python3)
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
command -v prometheus-alertmanager >/dev/null || missing+=(prometheus-alertmanager)
if ((${#missing[@]} > 0)); then
  if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
    echo "skipped: missing, and not installed without root and apt-get: ${missing[*]}"
  else
    export DEBIAN_FRONTEND=noninteractive
    # The Alertmanager's package starts its service where there is systemd; the tests start their own.
    apt-get -q -o Acquire::Retries=3 update
    apt-get -q -y -o Acquire::Retries=3 install --no-install-recommends "${missing[@]}" ||
      echo "skipped: apt-get could not install: ${missing[*]}"
  fi
fi

if ! "$peers/venv/bin/python" -c 'import aiosmtpd, jsonschema' 2>/dev/null; then
  python3 -m venv "$peers/venv"
  "$peers/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    "aiosmtpd==$aiosmtpd" "jsonschema==$jsonschema" || echo "skipped: pip could not install aiosmtpd and jsonschema"
fi

if [[ ! -e $peers/sarif-2.1.0.json ]]; then
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  printf '[package]\nname = "none"\nversion = "0.0.0"\n[dependencies]\nserde-sarif = "=%s"\n[lib]\npath = "none.rs"\n' \
    "$serde_sarif" >"$scratch/Cargo.toml"
  touch "$scratch/none.rs"
  if cargo vendor --quiet --manifest-path "$scratch/Cargo.toml" "$scratch/vendor" >/dev/null; then
    cp "$scratch/vendor/serde-sarif/src/schema.json" "$peers/sarif-2.1.0.json"
  else
    echo "skipped: cargo could not fetch the schema of SARIF"
  fi
fi
