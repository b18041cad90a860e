package maestro.licence_test

import data.maestro.licence
import rego.v1

document(class, target, tasks) := {
	"facts": {"license_class": class, "export_target": target},
	"tasks": tasks,
}

step(class) := {"id": "scrape", "path": "/tasks/0", "license_class": class}

rules(doc) := {one.rule | some one in licence.violation with input as doc}

test_open_data_exports_as_open_data if {
	doc := document("OPEN_DATA_OK", "OPEN_DATA_OK", [step(null)])
	licence.allow with input as doc
	count(licence.violation) == 0 with input as doc
}

test_restricted_flow_is_not_open_data if {
	doc := document("RESTRICTED_TOS", "OPEN_DATA_OK", [step(null)])
	not licence.allow with input as doc
	rules(doc) == {"licence-export"}
}

test_restricted_step_is_not_open_data if {
	doc := document("OPEN_DATA_OK", "OPEN_DATA_OK", [step("RESTRICTED_TOS")])
	not licence.allow with input as doc
	some one in licence.violation with input as doc
	one.rule == "licence-export"
	one.step == "scrape"
	one.path == "/tasks/0/license_class"
}

test_restricted_is_not_mit if {
	rules(document("RESTRICTED_TOS", "MIT_OK", [])) == {"licence-export"}
}

test_restricted_exports_as_restricted if {
	licence.allow with input as document("RESTRICTED_TOS", "RESTRICTED_TOS", [step(null)])
}

test_client_data_is_not_open_data if {
	rules(document("PROPRIETARY_CLIENT", "OPEN_DATA_OK", [])) == {"licence-export"}
}

test_embargoed_is_never_exported if {
	every target in data.licence.targets {
		rules(document("EMBARGOED", target, [])) == {"licence-embargoed"}
		rules(document(target, target, [step("EMBARGOED")])) == {"licence-embargoed"}
	}
}

test_embargoed_stays_inside if {
	licence.allow with input as document("EMBARGOED", null, [step("EMBARGOED")])
}

test_export_needs_a_class if {
	doc := document(null, "OPEN_DATA_OK", [step("OPEN_DATA_OK")])
	not licence.allow with input as doc
	rules(doc) == {"licence-missing"}
}

test_unknown_target_is_no_way_round if {
	rules(document("RESTRICTED_TOS", "open_data_ok", [])) == {"licence-target-unknown"}
}

test_unknown_class if {
	rules(document("WTFPL", null, [])) == {"licence-unknown"}
}

test_all_five_classes_are_known if {
	count(data.licence.classes) == 5
	every class in data.licence.classes {
		count(rules(document(class, null, []))) == 0
	}
}

test_silence_is_said_aloud if {
	doc := document(null, null, [step(null)])
	licence.allow with input as doc
	count(licence.warning) == 1 with input as doc
}

test_without_any_input_nothing_passes if not licence.allow with input as {}

test_without_tables_nothing_passes if {
	not licence.allow with input as document("MIT_OK", null, []) with data.licence as {}
}

test_without_input_nothing_passes if {
	not licence.allow with input as {"facts": {"license_class": "WTFPL", "export_target": "nowhere"}}
}
