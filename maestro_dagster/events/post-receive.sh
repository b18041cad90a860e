#!/bin/sh
# maestro-hook 1
# Records each pushed ref in the inbox of a Maestro project. Written by `maestro hook install`, which
# replaces this file when run again. Never rejects a push.
inbox=@INBOX@
repository=@REPOSITORY@
only=@ONLY@
chained=@CHAINED@

pushed=
while IFS= read -r line || [ -n "$line" ]; do
	pushed="$pushed$line
"
done

maestro_id() {
	id=
	read -r id 2>/dev/null </proc/sys/kernel/random/uuid || id=
	[ -n "$id" ] || id=$(uuidgen 2>/dev/null | tr 'A-Z' 'a-z')
	[ -n "$id" ] || id=$(od -An -N16 -tx1 /dev/urandom 2>/dev/null | tr -d ' \n')
	[ -n "$id" ]
}

maestro_lost() {
	echo "maestro: the push is stored, but its event could not be recorded in $inbox" >&2
	echo "maestro: no run starts from $1; make the folder writable and push again" >&2
}

# A whole event appears in new/ or none: written and synced in tmp/, then renamed.
maestro_record() {
	[ -d "$inbox/new" ] || mkdir -p "$inbox/new" 2>/dev/null
	[ -d "$inbox/tmp" ] || mkdir -p "$inbox/tmp" 2>/dev/null
	set --
	order=0
	while IFS=' ' read -r before after ref; do
		[ -n "$ref" ] || continue
		case $ref in
		*[\"\\]*) ref=$(printf '%s' "$ref" | sed 's/["\\]/\\&/g') ;;
		esac
		order=$((order + 1))
		if maestro_id && printf '{"event_id":"%s",%s,"before":"%s","after":"%s","ref":"%s","order":%d}\n' \
			"$id" "$repository" "$before" "$after" "$ref" "$order" 2>/dev/null >"$inbox/tmp/$id.json"; then
			set -- "$@" "$inbox/tmp/$id.json"
		else
			maestro_lost "$ref"
		fi
	done <<EVENTS
$pushed
EVENTS
	[ $# -gt 0 ] || return 0
	sync -- "$@" 2>/dev/null || sync
	for file; do
		mv -f "$file" "$inbox/new/" 2>/dev/null || maestro_lost "$file"
	done
	sync -- "$inbox/new" 2>/dev/null || sync
}

# A folder of hooks may serve many repositories (core.hooksPath); this one is about one of them.
if [ -z "$only" ] || [ "$(cd "${GIT_DIR:-.}" && pwd -P)" = "$only" ]; then
	maestro_record
fi

if [ -n "$chained" ] && [ -x "$chained" ]; then
	printf '%s' "$pushed" | "$chained" "$@"
	exit $?
fi
exit 0
