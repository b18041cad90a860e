package maestro.budget_test

import data.maestro.budget
import rego.v1

usd(whole, nano) := {"usd": whole, "nano": nano, "text": sprintf("%v.%v", [whole, nano])}

document(estimate, limit) := {"estimate": estimate, "budget": limit, "tasks": []}

rules(doc) := {one.rule | some one in budget.violation with input as doc}

test_below if {
	budget.allow with input as document(usd(0, 499999999), usd(0, 500000000))
}

test_equal if {
	budget.allow with input as document(usd(5, 0), usd(5, 0))
}

test_one_nano_above if {
	doc := document(usd(5, 1), usd(5, 0))
	not budget.allow with input as doc
	rules(doc) == {"budget-exceeded"}
}

test_dollars_weigh_more_than_nanos if {
	rules(document(usd(6, 0), usd(5, 999999999))) == {"budget-exceeded"}
	budget.allow with input as document(usd(4, 999999999), usd(5, 0))
}

test_unknown_is_denied if {
	doc := document(null, usd(5, 0))
	not budget.allow with input as doc
	rules(doc) == {"budget-unknown"}
}

test_unknown_is_denied_without_a_budget_too if {
	rules(document(null, null)) == {"budget-unknown"}
}

test_nothing_said_is_denied if {
	not budget.allow with input as {"tasks": []}
}

test_free_is_known if {
	budget.allow with input as document(usd(0, 0), usd(0, 0))
}

test_no_budget_is_said_aloud if {
	doc := document(usd(1, 0), null)
	budget.allow with input as doc
	count(budget.warning) == 1 with input as doc
}

test_budget_can_be_required if {
	doc := document(usd(1, 0), null)
	not budget.allow with input as doc with data.budget as {"require_budget": true}
	some one in budget.violation with input as doc with data.budget as {"require_budget": true}
	one.rule == "budget-missing"
}

test_step if {
	doc := object.union(document(usd(1, 0), usd(5, 0)), {"tasks": [{
		"id": "brief", "path": "/tasks/2", "estimate": usd(0, 9), "budget": usd(0, 8),
	}]})
	not budget.allow with input as doc
	some one in budget.violation with input as doc
	one.rule == "budget-step-exceeded"
	one.step == "brief"
}

test_without_input_nothing_passes if not budget.allow with input as {}

test_without_tables_nothing_passes if {
	not budget.allow with input as document(usd(0, 0), usd(5, 0)) with data.budget as {}
}
