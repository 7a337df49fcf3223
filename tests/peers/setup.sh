#!/usr/bin/env bash
# Installs the peers that the receivers are tested against: Debian's Alertmanager, openssl for a CA of our own, and aiosmtpd
# from PyPI in a virtual environment below target/peers/. What cannot be installed is told, and its tests say "skipped".
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

peers=${WHYSTALL_PEERS:-target/peers}
aiosmtpd=1.4.6

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

if ! "$peers/venv/bin/python" -c 'import aiosmtpd' 2>/dev/null; then
  python3 -m venv "$peers/venv"
  "$peers/venv/bin/python" -m pip install --quiet --disable-pip-version-check "aiosmtpd==$aiosmtpd" ||
    echo "skipped: pip could not install aiosmtpd"
fi
