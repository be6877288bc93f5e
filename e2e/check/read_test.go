package check

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFlowsAreReadAsOvsOfctlPrintsThem(t *testing.T) {
	w := words{map[int]string{3: "patch-tun", 4: "tapb", 5: "tapa", 1: "int-br-x"}, map[int]string{1: "blue"}, map[int]string{7: "policy=web"}}
	for _, c := range []struct {
		line               string
		fromWire, toWire   bool
		cookie, place, doe string
	}{
		{
			line:   "cookie=0x776501118f18b9e0, priority=100,in_port=5,vlan_tci=0x0000/0x1fff actions=push_vlan:0x8100,set_field:4097->vlan_vid,goto_table:60",
			cookie: "0x776501118f18b9e0", place: "table=0,in_port=tapa,untagged", doe: "push_vlan:0x8100,network=blue,goto_table:60",
		},
		{
			line:   "cookie=0x1, table=60, priority=50,dl_vlan=1,dl_dst=01:00:00:00:00:00/01:00:00:00:00:00 actions=output:3,pop_vlan,output:4,output:5",
			cookie: "0x1", place: "table=60,group,network=blue", doe: "output:patch-tun,pop_vlan,output:tapa,output:tapb",
		},
		{
			line: "cookie=0x2, priority=3,in_port=1,dl_vlan=1036 actions=set_field:4099->vlan_vid,goto_table:60", fromWire: true,
			cookie: "0x2", place: "table=0,dl_vlan=1036,in_port=int-br-x", doe: "network=vlan3,goto_table:60",
		},
		{
			line: "cookie=0x3, priority=4,in_port=9,dl_vlan=1 actions=set_field:5096->vlan_vid,NORMAL", toWire: true,
			cookie: "0x3", place: "table=0,in_port=9,network=blue", doe: "segment=1000,NORMAL",
		},
		{line: "priority=0 actions=NORMAL", place: "table=0", doe: "NORMAL"},
		{
			line:   "cookie=0x4, table=4, priority=1,tun_id=0x602af actions=push_vlan:0x8100,set_field:4097->vlan_vid,output:9",
			cookie: "0x4", place: "table=4,tun_id=393903", doe: "push_vlan:0x8100,network=blue,output:9",
		},
	} {
		f, cookie, err := parseFlow(c.line)
		if err != nil || cookie != c.cookie || w.place(f, c.fromWire) != c.place || w.does(f, c.toWire) != c.doe {
			t.Errorf("%s: %v, cookie %s, at %s: %s", c.line, err, cookie, w.place(f, c.fromWire), w.does(f, c.toWire))
		}
	}
}

func TestARuleAllowsItsOwnOutputsOnly(t *testing.T) {
	r := rule{fixed: "pop_vlan", must: []string{"b", "a"}, may: []string{"c"}}
	for does, want := range map[string]bool{
		"pop_vlan,output:a,output:b": true, "pop_vlan,output:a,output:b,output:c": true, "pop_vlan,output:a": false,
		"pop_vlan,output:a,output:b,output:d": false, "output:a,output:b": false, "pop_vlan,output:a,output:b,drop": false,
	} {
		if r.allows(does) != want {
			t.Errorf("%s: allowed %v", does, !want)
		}
	}
}

func TestNATRulesAreReadAsIptablesSavePrintsThem(t *testing.T) {
	rules, strange := readRules([]string{
		"-A PREROUTING -j weft-l3-agent-PREROUTING", "-A PREROUTING -j somebody", "-A OUTPUT -j weft-l3-agent-OUTPUT",
		"-A POSTROUTING -j weft-l3-agent-POSTROUTING", "-A POSTROUTING -j weft-postrouting-bottom",
		"-A weft-l3-agent-PREROUTING -d 203.0.113.5/32 -j DNAT --to-destination 10.0.0.5",
		"-A weft-l3-agent-PREROUTING -d 169.254.169.254/32 -i qr-+ -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 9697",
		"-A weft-l3-agent-OUTPUT -d 203.0.113.5/32 -j DNAT --to-destination 10.0.0.5",
		"-A weft-l3-agent-POSTROUTING ! -o qg-1 -m conntrack ! --ctstate DNAT -j ACCEPT",
		"-A weft-l3-agent-float-snat -s 10.0.0.5/32 -j SNAT --to-source 203.0.113.5",
		"-A weft-l3-agent-snat -s 10.0.0.0/24 -o qg-1 -j SNAT --to-source 203.0.113.2",
		"-A weft-l3-agent-snat -s 10.0.0.0/24 -m conntrack --ctstate DNAT -j SNAT --to-source 203.0.113.2",
		"-A weft-l3-agent-snat -s 10.0.0.0/24 -j RETURN", "-A weft-postrouting-bottom -j weft-l3-agent-snat",
	}, wantJumps())
	wantRules := []string{
		"203.0.113.5 leads to 10.0.0.5", "169.254.169.254:80 is answered on port 9697 of the router", "203.0.113.5 leads to 10.0.0.5, from the router itself", "what does not leave by qg-1 is left alone",
		"10.0.0.5 leaves as 203.0.113.5", "10.0.0.0/24 leaves by qg-1 as 203.0.113.2", "10.0.0.0/24 goes to a floating IP as 203.0.113.2",
	}
	wantStrange := []string{"-A weft-l3-agent-snat -s 10.0.0.0/24 -j RETURN", "missing: -A weft-l3-agent-snat -j weft-l3-agent-float-snat"}
	if diff := cmp.Diff([][]string{wantRules, wantStrange}, [][]string{rules, strange}); diff != "" {
		t.Error(diff)
	}
}

func FuzzParseFlow(f *testing.F) {
	f.Add("cookie=0x4, table=4, priority=1,tun_id=0x602af actions=push_vlan:0x8100,move:A[]->B[],output:1")
	f.Add(" actions=")
	f.Fuzz(func(t *testing.T, line string) {
		flow, _, err := parseFlow(line)
		if err == nil && len(flow.actions) == 0 {
			t.Errorf("%q has no actions", line)
		}
		w := words{map[int]string{}, map[int]string{}, map[int]string{}}
		_, _ = w.place(flow, false), w.does(flow, true)
	})
}

func FuzzReadHost(f *testing.F) {
	f.Add("@@ bridges -\n{\"data\":[[\"br-int\",[\"map\",[]],\"secure\",\"netdev\",[\"set\",[]]]],\"headings\":[\"name\",\"external_ids\",\"fail_mode\",\"datapath_type\",\"ports\"]}\n@@ marks -\nx\n@! 2\n")
	f.Add("@@ address q\n[{\"ifname\":\"a\",\"addr_info\":[{\"family\":\"inet\",\"local\":\"10.0.0.1\",\"prefixlen\":24,\"scope\":\"global\"}]}]\n@@ dnsmasq 1\n4026\n--a\n")
	f.Fuzz(func(t *testing.T, text string) {
		h, _ := readHost("h", text) // an error is right for what is no JSON
		if slices.Contains(h.marks, "") {
			t.Errorf("%q: a mark without a name", text)
		}
	})
}
