# Licences and terms of service: what may leave, and as what.
#
# A step without a licence class of its own has the flow's. `never` and `closed_to` stand in data.json.
package maestro.licence

import rego.v1

default allow := false

# Without its tables or its input the pack would find nothing wrong with anything.
allow if {
	count(violation) == 0
	is_object(input.facts)
	is_array(input.tasks)
	count(data.licence.classes) > 0
	count(data.licence.targets) > 0
	count(data.licence.never) > 0
	count(data.licence.closed_to) > 0
}

target := input.facts.export_target

exports if is_string(target)

# Every class that flows into the export, with the step and the place that says so.
sources contains {"class": input.facts.license_class, "step": "", "path": "/license_class"} if {
	is_string(input.facts.license_class)
}

sources contains {"class": task.license_class, "step": task.id, "path": path} if {
	some task in input.tasks
	is_string(task.license_class)
	path := concat("", [task.path, "/license_class"])
}

violation contains {
	"rule": "licence-embargoed",
	"step": source.step,
	"path": source.path,
	"message": sprintf("%s must not be exported, and the flow exports to %s", [source.class, target]),
	"remedy": "remove `export`, or leave the embargoed step out of this flow",
} if {
	exports
	some source in sources
	source.class in data.licence.never
}

violation contains {
	"rule": "licence-export",
	"step": source.step,
	"path": source.path,
	"message": sprintf("%s cannot be exported to %s", [source.class, target]),
	"remedy": sprintf("export to %s, or take this source out of the flow", [source.class]),
} if {
	exports
	some source in sources
	target in data.licence.closed_to[source.class]
}

violation contains {
	"rule": "licence-missing",
	"step": "",
	"path": "/license_class",
	"message": sprintf("the flow exports to %s and does not say under which licence its output stands", [target]),
	"remedy": sprintf("set license_class to one of %s", [concat(", ", data.licence.classes)]),
} if {
	exports
	class := object.get(input.facts, "license_class", null)
	not is_string(class)
}

violation contains {
	"rule": "licence-target-unknown",
	"step": "",
	"path": "/export/target",
	"message": sprintf("%s is no class that can be exported to", [target]),
	"remedy": sprintf("set export.target to one of %s", [concat(", ", data.licence.targets)]),
} if {
	exports
	wanted := target
	targets := data.licence.targets
	not wanted in targets
}

violation contains {
	"rule": "licence-unknown",
	"step": source.step,
	"path": source.path,
	"message": sprintf("%s is no licence class", [source.class]),
	"remedy": sprintf("set license_class to one of %s", [concat(", ", data.licence.classes)]),
} if {
	some source in sources
	class := source.class
	classes := data.licence.classes
	not class in classes
}

warning contains "the flow names no licence class, so no licence rule was reached" if {
	not exports
	count(sources) == 0
}
