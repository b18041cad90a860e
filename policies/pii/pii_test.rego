package maestro.pii_test

import data.maestro.pii
import rego.v1

flow(facts) := {
	"facts": object.union({"contains_pii": false, "legal_hold": false, "retention_tier": null}, facts),
	"tasks": [],
	"keys": [],
	"settings": {"pii_allow_stricter_tier": true},
}

personal(tier) := flow({"contains_pii": true, "retention_tier": tier})

with_key(name) := object.union(
	flow({}),
	{"tasks": [{
		"id": "send", "path": "/tasks/0", "data_class": null,
		"keys": [{"name": name, "path": concat("", ["/tasks/0/with/", name])}],
	}]},
)

rules(doc) := {one.rule | some one in pii.violation with input as doc}

test_short_is_right if {
	pii.allow with input as personal("short-30d")
	count(pii.violation) == 0 with input as personal("short-30d")
}

test_longer_is_denied if {
	every tier in {"standard-365d", "long-1825d"} {
		rules(personal(tier)) == {"pii-retention"}
	}
	not pii.allow with input as personal("standard-365d")
	not pii.allow with input as personal("long-1825d")
}

test_stricter_is_allowed if {
	pii.allow with input as personal("ephemeral-7d")
}

test_stricter_is_denied_when_switched_off if {
	doc := object.union(personal("ephemeral-7d"), {"settings": {"pii_allow_stricter_tier": false}})
	not pii.allow with input as doc
	rules(doc) == {"pii-retention"}
}

test_short_is_right_when_switched_off if {
	doc := object.union(personal("short-30d"), {"settings": {"pii_allow_stricter_tier": false}})
	pii.allow with input as doc
}

test_no_tier_is_denied if {
	not pii.allow with input as personal(null)
	rules(personal(null)) == {"pii-retention-missing"}
}

test_unknown_tier_is_denied if {
	rules(personal("short-31d")) == {"pii-retention"}
}

test_hold_by_flag if {
	pii.allow with input as flow({"contains_pii": true, "legal_hold": true, "retention_tier": "long-1825d"})
	pii.allow with input as flow({"contains_pii": true, "legal_hold": true})
}

test_hold_by_tier if {
	pii.allow with input as personal("legal-hold")
}

test_without_personal_data_any_tier if {
	every tier in data.pii.tiers {
		count(rules(flow({"retention_tier": tier}))) == 0
	}
	pii.allow with input as flow({"retention_tier": "long-1825d"})
}

test_undeclared if {
	doc := object.union(flow({}), {"tasks": [{
		"id": "read", "path": "/tasks/0", "keys": [], "data_class": "personal",
	}]})
	not pii.allow with input as doc
	rules(doc) == {"pii-undeclared"}
}

test_keys if {
	every name in {
		"ssn", "SSN", "Ssn_last4", "user_ssn", "userSsn", "user-SSN", "social_security_number", "socialSecurity",
		"passportNumber", "credit_card", "CARD-NUMBER", "nationalId", "dateOfBirth",
	} {
		rules(with_key(name)) == {"pii-key"}
	}
	not pii.allow with input as with_key("ssn")
}

test_innocent_keys if {
	every name in {"url", "className", "session", "passthrough", "cardinality", "classname", "prompt"} {
		count(rules(with_key(name))) == 0
	}
	pii.allow with input as with_key("className")
}

test_key_says_where if {
	some one in pii.violation with input as with_key("ssn")
	one.step == "send"
	one.path == "/tasks/0/with/ssn"
}

test_allowed_key if {
	pii.allow with input as with_key("ssn") with data.pii.allowed_keys as ["ssn"]
}

test_key_of_the_flow if {
	doc := object.union(flow({}), {"keys": [{"name": "ssn", "path": "/inputs/ssn"}]})
	rules(doc) == {"pii-key"}
}

test_personal_parameter if {
	doc := object.union(flow({}), {"keys": [{"name": "ssn", "path": "/params/ssn", "data_class": "personal"}]})
	pii.allow with input as doc
}

test_silence_is_said_aloud if {
	count(pii.warning) == 1 with input as flow({})
	count(pii.warning) == 0 with input as personal("short-30d")
}

test_without_input_nothing_passes if not pii.allow with input as {}

test_without_tables_nothing_passes if {
	not pii.allow with input as personal("short-30d") with data.pii as {}
}
