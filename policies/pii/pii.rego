# Personal data: how long it may be kept, and that it does not stand in a manifest.
#
# Tiers are ordered from the strictest. `short-30d` is the longest for personal data; a stricter one is
# fine too unless the project sets pii_allow_stricter_tier = false. A legal hold, as flag or as tier,
# exempts from the limit. Key patterns and exceptions stand in data.json.
package maestro.pii

import rego.v1

default allow := false

allow if {
	count(violation) == 0
	is_boolean(input.facts.contains_pii)
	is_array(input.tasks)
	is_array(input.keys)
	count(data.pii.keys) > 0
	data.pii.longest in data.pii.tiers
}

personal if input.facts.contains_pii == true

held if input.facts.legal_hold == true

held if input.facts.retention_tier == data.pii.hold

tier := input.facts.retention_tier

position[name] := index if some index, name in data.pii.tiers

fits if tier == data.pii.longest

fits if {
	input.settings.pii_allow_stricter_tier == true
	position[tier] < position[data.pii.longest]
}

violation contains {
	"rule": "pii-retention",
	"step": "",
	"path": "/retention_tier",
	"message": sprintf("personal data must not be kept as %s", [tier]),
	"remedy": sprintf("set retention_tier: %s, or legal_hold: true where the law demands it", [data.pii.longest]),
} if {
	personal
	not held
	is_string(tier)
	not fits
}

violation contains {
	"rule": "pii-retention-missing",
	"step": "",
	"path": "/retention_tier",
	"message": "the flow has personal data and does not say how long it is kept",
	"remedy": sprintf("set retention_tier: %s", [data.pii.longest]),
} if {
	personal
	not held
	said := object.get(input.facts, "retention_tier", null)
	not is_string(said)
}

violation contains {
	"rule": "pii-undeclared",
	"step": task.id,
	"path": concat("", [task.path, "/data_class"]),
	"message": "the step has data of class personal, and the flow says that it has none",
	"remedy": "set contains_pii: true and a retention tier",
} if {
	not personal
	some task in input.tasks
	task.data_class == "personal"
}

violation contains {
	"rule": "pii-key",
	"step": task.id,
	"path": key.path,
	"message": sprintf("the key %s names personal data", [key.name]),
	"remedy": "pass the value as a parameter of class personal, or add the key to allowed_keys in pii/data.json",
} if {
	some task in input.tasks
	some key in task.keys
	suspicious(key.name)
}

violation contains {
	"rule": "pii-key",
	"step": "",
	"path": key.path,
	"message": sprintf("the key %s names personal data", [key.name]),
	"remedy": "give it the class personal, or add the key to allowed_keys in pii/data.json",
} if {
	some key in input.keys
	suspicious(key.name)
	not key.data_class == "personal"
}

# One pattern instead of many: a flow of 10,000 steps has many keys.
pattern := concat("|", data.pii.keys)

suspicious(name) if {
	regex.match(pattern, name)
	allowed := data.pii.allowed_keys
	not name in allowed
}

warning contains "the flow declares no personal data, so no retention rule was reached" if not personal
