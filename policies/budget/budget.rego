# Budgets: what a run is estimated to cost has to be known, and to fit.
#
# Amounts are {usd, nano, text}; [usd, nano] compares exactly. An unknown price is unknown, not nothing.
# `require_budget` in data.json denies flows that name no budget at all.
package maestro.budget

import rego.v1

default allow := false

allow if {
	count(violation) == 0
	is_boolean(data.budget.require_budget)
	is_object(input.estimate)
	is_array(input.tasks)
}

over(amount, limit) if [amount.usd, amount.nano] > [limit.usd, limit.nano]

violation contains {
	"rule": "budget-unknown",
	"step": "",
	"path": "/budget",
	"message": "what the run will cost is not known, because some step has no price",
	"remedy": "add the missing price to resources/models.yaml or rates.yaml, or choose a model that has one",
} if {
	estimate := object.get(input, "estimate", null)
	not is_object(estimate)
}

violation contains {
	"rule": "budget-exceeded",
	"step": "",
	"path": "/budget",
	"message": sprintf("estimated cost %s USD exceeds the budget of %s USD", [input.estimate.text, input.budget.text]),
	"remedy": "raise the budget, or choose cheaper models or fewer tokens",
} if {
	over(input.estimate, input.budget)
}

violation contains {
	"rule": "budget-step-exceeded",
	"step": task.id,
	"path": concat("", [task.path, "/budget"]),
	"message": sprintf("estimated cost %s USD exceeds the step's budget of %s USD", [task.estimate.text, task.budget.text]),
	"remedy": "raise the step's budget, or choose a cheaper model or fewer tokens",
} if {
	some task in input.tasks
	over(task.estimate, task.budget)
}

violation contains {
	"rule": "budget-missing",
	"step": "",
	"path": "/budget",
	"message": "this project asks for a budget in every flow",
	"remedy": "add `budget: {usd: ...}` to the flow, or give --budget",
} if {
	data.budget.require_budget == true
	limit := object.get(input, "budget", null)
	not is_object(limit)
}

warning contains "the flow has no budget, so only its price was looked at" if {
	limit := object.get(input, "budget", null)
	not is_object(limit)
}
