package query_test

import (
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weft-sdn/weft/controller/query"
	"github.com/weft-sdn/weft/proto/model"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

var port = &weftv1.Port{
	Name: `a "b"`, AdminStateUp: proto.Bool(true), FixedIps: []*weftv1.FixedIp{{IpAddress: "10.0.0.5"}, {IpAddress: "10.0.0.40"}},
	Status: &weftv1.ObjectStatus{State: weftv1.State_STATE_ACTIVE},
}

func TestFilterMatchesWhatItSays(t *testing.T) {
	for text, want := range map[string]bool{
		"":                                 true,
		`name = "a \"b\""`:                 true,
		`name="a \"b\""AND host=""`:        true,
		"name = a":                         false,
		"name != a":                        true,
		"admin_state_up = true":            true,
		"fixed_ips.ip_address = 10.0.0.40": true,
		"fixed_ips.ip_address != 10.0.0.5": false, // one of them is
		"fixed_ips.subnet_id = x":          false,
		"status.state = active":            true,
		"status.state = STATE_ACTIVE":      true,
		"status.state != active":           false,
		"status.reports.node = n":          false,
		"external_gateway":                 false,
	} {
		f, err := query.ParseFilter(port.ProtoReflect().Descriptor(), text)
		if text == "external_gateway" {
			if len(model.FieldErrors(err)) != 1 {
				t.Errorf("%s: got %v, want a field error", text, err)
			}
			continue
		}
		if err != nil || f.Match(port.ProtoReflect()) != want {
			t.Errorf("%s: got %t, %v, want %t", text, f.Match(port.ProtoReflect()), err, want)
		}
	}
	node := &weftv1.Node{Labels: map[string]string{"rack.row": "7"}, Roles: []weftv1.Role{weftv1.Role_ROLE_NETWORK}}
	f, err := query.ParseFilter(node.ProtoReflect().Descriptor(), "labels.rack.row = 7 AND roles = network")
	if err != nil || !f.Match(node.ProtoReflect()) {
		t.Errorf("labels: %v", err)
	}
}

func TestBadFiltersAndOrdersAreFieldErrors(t *testing.T) {
	d := port.ProtoReflect().Descriptor()
	for _, text := range []string{
		"name", "name =", "= x", "name = x AND", "name = x OR host = y", `name = "x`, "name.x = y", "fixed_ips = x", "status = x",
		"nothing = x", "admin_state_up = maybe", "create_time = x", "name ! x", `"name" = x`, "status.state = blue",
	} {
		if _, err := query.ParseFilter(d, text); len(model.FieldErrors(err)) != 1 {
			t.Errorf("filter %s: got %v, want a field error", text, err)
		}
	}
	for _, text := range []string{"name sideways", ",", "nothing", "fixed_ips", "name desc desc"} {
		if _, err := query.ParseOrder(d, text); len(model.FieldErrors(err)) != 1 {
			t.Errorf("order %s: got %v, want a field error", text, err)
		}
	}
}

func TestOrderSortsAddressesAndTimes(t *testing.T) {
	at := func(s int64, n int32) *weftv1.Port {
		return &weftv1.Port{Name: "x", CreateTime: &timestamppb.Timestamp{Seconds: s, Nanos: n}}
	}
	ports := []*weftv1.Port{at(2, 0), at(1, 5), at(1, 3), port}
	o, err := query.ParseOrder(port.ProtoReflect().Descriptor(), "name desc, create_time")
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(ports, func(a, b *weftv1.Port) int { return o.Compare(a.ProtoReflect(), b.ProtoReflect()) })
	if ports[0].GetCreateTime().GetNanos() != 3 || ports[1].GetCreateTime().GetNanos() != 5 || ports[3] != port {
		t.Errorf("order = %v", ports)
	}
}

func TestPageTokensBelongToTheirQuery(t *testing.T) {
	token := query.Token(7, 100, "network", "name = x")
	p, err := query.ParsePage(0, token, "network", "name = x")
	if err != nil || p.Revision != 7 || p.Offset != 100 || p.Size != query.DefaultPage {
		t.Errorf("page = %+v, %v", p, err)
	}
	for _, other := range []string{"name = y", ""} {
		if _, err := query.ParsePage(0, token, "network", other); err == nil {
			t.Errorf("token accepted for %q", other)
		}
	}
	if p, err := query.ParsePage(1<<30, "", "x"); err != nil || p.Size != query.MaxPage {
		t.Errorf("page = %+v, %v, want the largest", p, err)
	}
	if _, err := query.ParsePage(-1, "", "x"); err == nil {
		t.Error("a negative page size is accepted")
	}
}

// FuzzQuery parses any text: never a panic, and every error names its field.
func FuzzQuery(f *testing.F) {
	for _, seed := range []string{"name = x", `name = "\x00" AND a.b != c`, "fixed_ips.ip_address=1", "name desc,id", "status.reports.time = 1"} {
		f.Add(seed)
	}
	d := port.ProtoReflect().Descriptor()
	f.Fuzz(func(t *testing.T, text string) {
		filter, err := query.ParseFilter(d, text)
		if err == nil {
			filter.Match(port.ProtoReflect())
			filter.Match((&weftv1.Port{}).ProtoReflect())
		} else if len(model.FieldErrors(err)) != 1 {
			t.Errorf("filter: %v is no field error", err)
		}
		order, err := query.ParseOrder(d, text)
		if err == nil {
			if order.Compare(port.ProtoReflect(), port.ProtoReflect()) != 0 {
				t.Error("a port is not equal to itself")
			}
		} else if len(model.FieldErrors(err)) != 1 {
			t.Errorf("order: %v is no field error", err)
		}
		if _, err := query.ParsePage(0, text, "x"); err != nil && len(model.FieldErrors(err)) != 1 {
			t.Errorf("page: %v is no field error", err)
		}
	})
}
