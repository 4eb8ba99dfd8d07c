#!/bin/sh
# Write the secrets of compose.yaml: the two that you have from WhatSMS, and three that are made up here and kept.
#
# Use:  sh deploy/compose/make-secrets.sh WEBHOOK-SECRET API-KEY
set -eu
test $# = 2 || { echo "give the webhook secret and the API key" >&2; exit 2; }
cd "$(dirname "$0")/secrets"
umask 077
printf '%s' "$1" >tenants__acme__webhook_secrets__current
printf '%s' "$2" >tenants__acme__api_key
for made in database__password private__token grafana_admin_password; do
    test -e "$made" || openssl rand -hex 24 >"$made"
done
# Compose mounts them as they are, so each must be readable for the user in the container: 10001 is ours, 472 is Grafana's.
# PostgreSQL reads its password as root.
if [ "$(id -u)" = 0 ]; then
    chown 10001 ./*__*
    chown 472 grafana_admin_password
else
    echo "as root: chown 10001 $(pwd)/*__* && chown 472 $(pwd)/grafana_admin_password" >&2
fi
