package ovs

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// bigTables are the tables of a node with n ports on one bridge.
func bigTables(n int) tables {
	t := tables{root: map[string]*rootRow{"r": {}}, bridges: map[string]*bridgeRow{}, ports: map[string]*portRow{}, interfaces: map[string]*interfaceRow{}}
	br := &bridgeRow{Name: "br-int"}
	for i := range n {
		p, f := fmt.Sprintf("p%d", i), fmt.Sprintf("i%d", i)
		name := fmt.Sprintf("tap%d", i)
		ofport := i + 1
		t.interfaces[f] = &interfaceRow{Name: name, OFPort: &ofport, ExternalIDs: map[string]string{OwnerKey: "port:x", IfaceIDKey: "y"}}
		t.ports[p] = &portRow{Name: name, Interfaces: []string{f}, ExternalIDs: map[string]string{OwnerKey: "port:x"}}
		br.Ports = append(br.Ports, p)
	}
	t.bridges["b"] = br
	return t
}

// What a builder keeps of earlier rows shows in no snapshot.
func TestASnapshotIsTheSameWhateverWasBuiltBefore(t *testing.T) {
	var b builder
	tables := bigTables(3)
	check := func(when string) {
		t.Helper()
		got, want := b.build(tables), (&builder{}).build(tables)
		if d := cmp.Diff(want, got, cmp.AllowUnexported(Snapshot{}, Bridge{}, Port{}, Interface{}, bridgeRow{}, portRow{}, interfaceRow{})); d != "" {
			t.Errorf("%s (-want +got):\n%s", when, d)
		}
	}
	check("at first")
	check("unchanged")
	tables.interfaces["i1"] = &interfaceRow{Name: "tap1", Error: new(string)}
	check("an interface changed")
	row := tables.interfaces["i2"]
	delete(tables.interfaces, "i2")
	check("an interface's row is gone")
	tables.interfaces["i2"] = row
	check("it is back")
	port := tables.ports["p0"]
	delete(tables.ports, "p0")
	check("a port's row is gone")
	tables.ports["p0"] = port
	tables.bridges["b2"] = &bridgeRow{Name: "br-tun", Ports: []string{"p0"}}
	tables.bridges["b"] = &bridgeRow{Name: "br-int", Ports: []string{"p1", "p2"}}
	check("a port moved to another bridge")
	delete(tables.bridges, "b")
	check("a bridge is gone")
}

func BenchmarkSnapshotOf3500PortsWhenOneChanged(b *testing.B) {
	var made builder
	t := bigTables(3500)
	for b.Loop() {
		row := *t.interfaces["i7"]
		t.interfaces["i7"] = &row
		made.build(t)
	}
}
