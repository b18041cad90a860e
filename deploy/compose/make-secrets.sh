#!/bin/sh
# Makes the passwords that compose.yaml needs, once: sh make-secrets.sh [FOLDER], default: secrets beside this file.
#
# Compose mounts each file as it lies here, whatever the user in the container is. So the files can be read by
# everybody, and the folder is closed to everybody else.
set -eu
umask 077
folder="${1:-$(dirname "$0")/secrets}"
if [ -e "$folder/maestro.env" ]; then
  echo "$folder/maestro.env is there already; passwords are changed in the database first, then here" >&2
  exit 1
fi

new_password() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

mkdir -p "$folder"
chmod 700 "$folder"
printf '*\n' > "$folder/.gitignore"
for name in database_password grafana_password; do
  new_password > "$folder/$name"
  chmod 444 "$folder/$name"
done
printf 'MAESTRO_DATABASE=postgresql://maestro_app:%s@postgres:5432/maestro\n' "$(cat "$folder/database_password")" \
  > "$folder/maestro.env"
echo "made: $folder"
