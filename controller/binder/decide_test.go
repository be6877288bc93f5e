package binder

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDecide(t *testing.T) {
	free := portState{network: "n", name: "p1", revision: 1}
	at := func(host, bound string) portState {
		p := free
		p.host, p.bound = host, bound
		return p
	}
	system := portState{network: "n", system: true}
	a, b := plug{"a", 5}, plug{"b", 3}
	for name, c := range map[string]struct {
		port     portState
		plugs    []plug
		bindings []binding
		want     decision
	}{
		"nothing to do":                        {port: free},
		"a free port goes where it appears":    {port: free, plugs: []plug{a}, want: decision{rebind: true, bind: "a"}},
		"and where it appeared first":          {port: free, plugs: []plug{a, b}, want: decision{rebind: true, bind: "b", refuse: map[string]string{"a": "port p1 is bound to b"}}},
		"a bound port stays":                   {port: at("", "a"), plugs: []plug{a, b}, want: decision{refuse: map[string]string{"b": "port p1 is bound to a"}}},
		"what is refused is said once":         {port: at("", "a"), plugs: []plug{a, b}, bindings: []binding{{"b", "port p1 is bound to a", 7}}},
		"and anew when the reason changes":     {port: at("", "c"), plugs: []plug{{"c", 1}, b}, bindings: []binding{{"b", "port p1 is bound to a", 7}}, want: decision{refuse: map[string]string{"b": "port p1 is bound to c"}}},
		"an unplugged port is free again":      {port: at("", "a"), want: decision{rebind: true}},
		"and moves on":                         {port: at("", "a"), plugs: []plug{b}, want: decision{rebind: true, bind: "b"}},
		"a port with a host is not moved":      {port: at("a", "a"), plugs: []plug{b}, want: decision{refuse: map[string]string{"b": "port p1 is bound to a"}}},
		"an unknown port is refused":           {plugs: []plug{a}, want: decision{refuse: map[string]string{"a": "there is no port id"}}},
		"a refusal goes with its plug":         {port: at("a", "a"), bindings: []binding{{"b", "x", 7}}, want: decision{forget: []binding{{"b", "x", 7}}}},
		"a refusal of a port that is gone too": {bindings: []binding{{"b", "x", 7}}, want: decision{forget: []binding{{"b", "x", 7}}}},
		"the system's ports are left alone":    {port: system, plugs: []plug{a}},
	} {
		t.Run(name, func(t *testing.T) {
			got := decide("id", c.port, c.plugs, c.bindings)
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(decision{}, binding{})); diff != "" {
				t.Errorf("decision (-want +got):\n%s", diff)
			}
		})
	}
}
