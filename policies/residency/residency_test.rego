package maestro.residency_test

import data.maestro.residency
import rego.v1

document(own, asked) := {"facts": {"region": own}, "request": {"region": asked}}

rules(doc) := {one.rule | some one in residency.violation with input as doc}

test_same_region if {
	residency.allow with input as document("US", "US")
}

test_same_region_in_another_spelling if {
	residency.allow with input as document("eu", " EU ")
}

test_russia_is_banned if {
	not residency.allow with input as document("RU", "RU")
	rules(document("RU", "RU")) == {"residency-banned"}
	rules(document("US", "RU")) == {"residency-banned"}
}

test_north_korea_is_banned if {
	not residency.allow with input as document("KP", "KP")
	rules(document("KP", "KP")) == {"residency-banned"}
	rules(document("US", "KP")) == {"residency-banned"}
}

test_banned_without_a_request if {
	rules(document("RU", null)) == {"residency-banned"}
	rules(document("KP", null)) == {"residency-banned"}
}

test_banned_without_a_flow_region if {
	rules(document(null, "RU")) == {"residency-banned"}
	rules(document(null, "KP")) == {"residency-banned"}
}

test_a_part_of_a_banned_region if {
	rules(document("ru-mow", null)) == {"residency-banned"}
	rules(document("KP_01", null)) == {"residency-banned"}
}

test_other_regions_with_the_same_letters if {
	residency.allow with input as document("RUHR", "RUHR")
}

test_mismatch if {
	not residency.allow with input as document("US", "EU")
	rules(document("US", "EU")) == {"residency-mismatch"}
}

test_missing if {
	not residency.allow with input as document(null, "EU")
	rules(document(null, "EU")) == {"residency-missing"}
}

test_nothing_asked if {
	residency.allow with input as document("EU", null)
	count(residency.warning) == 0 with input as document("EU", null)
}

test_silence_is_said_aloud if {
	residency.allow with input as document(null, null)
	count(residency.warning) == 1 with input as document(null, null)
}

test_without_input_nothing_passes if not residency.allow with input as {}

test_without_tables_nothing_passes if {
	not residency.allow with input as document("US", "US") with data.residency as {}
}
