package fleet

import (
	"os"
	"strings"
	"testing"
)

func TestParseNamesEveryOffenderByPath(t *testing.T) {
	_, err := Parse([]byte(`
projekt: x
networks:
- name: net
  mtu: big
  subnets:
  - {name: s, cdir: 10.0.0.0/24}
  - {name: 7, enable_dhcp: "yes please"}
- null
- [a]
ports: {name: p}
routers: [{name: r, gateway: {network: e, nat: true}, interfaces: [{sub: a}]}]
segment_ranges: [{name: v, minimum: -1, maximum: 5000000000}, {name: w, minimum: 1.5}]
floating_ips: [{name: f, port: true}]
`))
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"projekt: unknown key; known are address_groups, floating_ips, networks, ports, project, routers, security_groups, segment_ranges",
		`networks[0].mtu: expected a number, found "big"`,
		"networks[0].subnets[0].cdir: unknown key; known are",
		"networks[0].subnets[1].name: expected text, found 7; put it in quotes",
		`networks[0].subnets[1].enable_dhcp: expected true or false, found "yes please"`,
		"networks[1]: is empty",
		"networks[2]: expected keys and values, found a list",
		"ports: expected a list, found keys and values",
		"routers[0].gateway.nat: unknown key",
		"routers[0].interfaces[0].sub: unknown key",
		"segment_ranges[0].minimum: -1 is not a whole number that fits here",
		"segment_ranges[0].maximum: 5000000000 is not",
		"segment_ranges[1].minimum: 1.5 is not",
		"floating_ips[0].port: expected text, found true",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("missing %q in:\n%v", want, err)
		}
	}
}

func TestParseRefusesWhatAPersonMayOverlook(t *testing.T) {
	for name, text := range map[string]string{
		"several YAML documents": "networks: []\n---\nnetworks: []\n",
		"not valid YAML":         "networks: [",
		"already set":            "networks: []\nnetworks: []\n",
		"of the form A-B":        "networks: [{name: net, subnets: [{name: s, cidr: c, allocation_pools: [x]}]}]",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%q: error %v, want %q", text, err, name)
		}
	}
}

func TestParseEmptyFileWantsNothing(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "{}", "networks:\n"} {
		f, err := Parse([]byte(text))
		if err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if actions, err := Plan(Current{}, f); err != nil || len(actions) > 0 {
			t.Errorf("%q: plan %v, %v", text, actions, err)
		}
	}
}

// FuzzParse holds that no file makes the parser or the planner panic, and that a plan's steps can be taken.
func FuzzParse(f *testing.F) {
	example, err := os.ReadFile("../../../../deploy/examples/fleet.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example)
	f.Add([]byte("networks: [{name: \"\\0\"}]"))
	f.Add([]byte("routers: [{name: r, gateway: none, interfaces: [a/b]}]"))
	f.Add([]byte("networks: &a [{name: net, subnets: *a}]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 1<<16 {
			t.Skip("larger than any interesting file")
		}
		file, err := Parse(text)
		if err != nil {
			return
		}
		file.Project = "default"
		actions, err := Plan(Current{}, file)
		if err != nil {
			return
		}
		take(t, Current{}, actions)
	})
}
