# Residency: a flow runs for the region that it was made for, and never for or in a banned one.
#
# Regions are compared without regard to case. A part of a region (`RU-MOW`) is banned with the whole.
package maestro.residency

import rego.v1

default allow := false

allow if {
	count(violation) == 0
	is_object(input.facts)
	is_object(input.request)
	count(data.residency.banned) > 0
}

asked := upper(trim_space(input.request.region)) if is_string(input.request.region)

own := upper(trim_space(input.facts.region)) if is_string(input.facts.region)

regions contains {"name": asked, "path": "", "whose": "the request"}

regions contains {"name": own, "path": "/region", "whose": "the flow"}

violation contains {
	"rule": "residency-banned",
	"step": "",
	"path": region.path,
	"message": sprintf("%s names the banned region %s (%s)", [region.whose, region.name, country]),
	"remedy": "choose another region; the list stands in residency/data.json",
} if {
	some region in regions
	country := banned(region.name)
}

banned(region) := data.residency.banned[code] if {
	some code in {region, split(split(region, "-")[0], "_")[0]}
}

violation contains {
	"rule": "residency-mismatch",
	"step": "",
	"path": "/region",
	"message": sprintf("the request is for %s, the flow is for %s", [asked, own]),
	"remedy": sprintf("run a flow with region: %s, or ask for %s", [asked, own]),
} if {
	asked != own
	region := asked
	not banned(region)
}

violation contains {
	"rule": "residency-missing",
	"step": "",
	"path": "/region",
	"message": sprintf("the request is for %s, and the flow names no region", [asked]),
	"remedy": sprintf("set region: %s in the flow", [asked]),
} if {
	region := asked
	not own
	not banned(region)
}

warning contains "neither the flow nor the request names a region, so no residency rule was reached" if {
	not asked
	not own
}
