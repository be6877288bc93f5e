package render_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weft-sdn/weft/cmd/weft/cli/render"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func router() *weftv1.Router {
	return &weftv1.Router{
		Id: "7d6c", Name: "r1", Project: "default", AdminStateUp: proto.Bool(true),
		ExternalGateway: &weftv1.ExternalGateway{
			NetworkId: "e1", PortId: "p9", EnableSnat: proto.Bool(true),
			FixedIps: []*weftv1.FixedIp{{SubnetId: "s9", IpAddress: "203.0.113.9"}},
		},
		Interfaces: []*weftv1.RouterInterface{{PortId: "p1", SubnetId: "s1", IpAddress: "10.0.0.1"}, {PortId: "p2", SubnetId: "s2", IpAddress: "10.0.1.1"}},
		Routes:     []*weftv1.Route{{Destination: "10.8.0.0/16", Nexthop: "10.0.0.9"}},
		CreateTime: &timestamppb.Timestamp{Seconds: 1_700_000_000},
		Status: &weftv1.ObjectStatus{
			State: weftv1.State_STATE_ERROR, Message: "node net1: no bridge",
			Reports: []*weftv1.NodeReport{{Node: "net1", Revision: 12, State: weftv1.State_STATE_ERROR, Message: "no bridge", Time: &timestamppb.Timestamp{Seconds: 1_700_000_001}}},
		},
		Placement: &weftv1.Placement{Nodes: []string{"net1"}, Rejected: []*weftv1.NodeRejection{{Node: "net2", Reason: "has no physical network ext1"}}},
	}
}

func printed(t *testing.T, p render.Printer, do func(render.Printer) error) string {
	t.Helper()
	var b strings.Builder
	p.W = &b
	if err := do(p); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestObjectIsATableOfFields(t *testing.T) {
	object := func(p render.Printer) error { return p.Object(router()) }
	want := `FIELD                        VALUE
id                           7d6c
name                         r1
project                      default
admin_state_up               true
external_gateway.network_id  e1
external_gateway.fixed_ips   subnet_id=s9 ip_address=203.0.113.9
external_gateway.enable_snat true
external_gateway.port_id     p9
interfaces                   port_id=p1 subnet_id=s1 ip_address=10.0.0.1
                             port_id=p2 subnet_id=s2 ip_address=10.0.1.1
routes                       10.8.0.0/16 via 10.0.0.9
etag
create_time                  2023-11-14T22:13:20Z
update_time
status                       ERROR
status.message               node net1: no bridge
placement                    net1
placement.rejected           net2: has no physical network ext1
ha                           0
pool
active_node
instances
`
	got := printed(t, render.Printer{Format: render.Table}, object)
	if diff := cmp.Diff(squeeze(want), squeeze(got)); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
	wide := printed(t, render.Printer{Format: render.Wide}, object)
	if want := "net1: ERROR of revision 12 at 2023-11-14T22:13:21Z: no bridge"; !strings.Contains(wide, want) {
		t.Errorf("wide misses %q:\n%s", want, wide)
	}
	boxes := printed(t, render.Printer{Format: render.Table, Boxes: true}, object)
	if !strings.HasPrefix(boxes, "┌") {
		t.Errorf("no box for a terminal:\n%s", boxes)
	}
}

// squeeze makes the widths of columns of no account.
func squeeze(s string) string {
	var out []string
	for line := range strings.Lines(s) {
		out = append(out, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(out, "\n")
}

func TestListShowsWideColumnsInWideOnly(t *testing.T) {
	cols := []render.Column{{Head: "NAME", Path: "name"}, {Head: "ADDRESSES", Path: "interfaces.ip_address"}, {Head: "STATUS", Path: "status.state"}, {Head: "NODES", Path: "placement.nodes", Wide: true}}
	objs := []proto.Message{router(), &weftv1.Router{Name: "bare"}}
	list := func(p render.Printer) error { return p.List(objs, cols) }
	want := "NAME ADDRESSES STATUS\nr1 10.0.0.1, 10.0.1.1 ERROR\nbare\n"
	if got := squeeze(printed(t, render.Printer{Format: render.Table}, list)); got != strings.TrimSuffix(want, "\n") && got+"\n" != want {
		t.Errorf("table:\n%s", got)
	}
	if got := printed(t, render.Printer{Format: render.Wide}, list); !strings.Contains(got, "NODES") || !strings.Contains(got, "net1") {
		t.Errorf("wide:\n%s", got)
	}
}

func TestProgramsGetTheAPIMessage(t *testing.T) {
	n := &weftv1.Network{Id: "n1", Type: weftv1.NetworkType_NETWORK_TYPE_VLAN, SegmentationId: 7}
	json := printed(t, render.Printer{Format: render.JSON}, func(p render.Printer) error { return p.Object(n) })
	for _, want := range []string{`"id": "n1"`, `"segmentation_id": 7`, `"type": "NETWORK_TYPE_VLAN"`, `"shared": false`} {
		if !strings.Contains(json, want) {
			t.Errorf("JSON misses %s:\n%s", want, json)
		}
	}
	yaml := printed(t, render.Printer{Format: render.YAML}, func(p render.Printer) error { return p.List([]proto.Message{n}, nil) })
	if !strings.HasPrefix(yaml, "- ") || !strings.Contains(yaml, "segmentation_id: 7") {
		t.Errorf("YAML:\n%s", yaml)
	}
	if got := printed(t, render.Printer{Format: render.JSON}, func(p render.Printer) error { return p.List(nil, nil) }); got != "[]\n" {
		t.Errorf("empty list: %q", got)
	}
}

func TestWhatAnObjectHoldsCannotMoveTheTerminal(t *testing.T) {
	n := &weftv1.Network{Name: "a\x1b[2Jb\nc\u202ed", Status: &weftv1.ObjectStatus{Message: "x\ry"}}
	got := printed(t, render.Printer{Format: render.Table}, func(p render.Printer) error { return p.Object(n) })
	if strings.ContainsAny(got, "\x1b\r\u202e") || !strings.Contains(got, "a?[2Jb?c?d") || !strings.Contains(got, "x?y") {
		t.Errorf("printed %q", got)
	}
}

func TestUnknownFormat(t *testing.T) {
	if _, err := render.Parse("xml"); err == nil {
		t.Error("xml was taken")
	}
}
