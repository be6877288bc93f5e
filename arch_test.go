// Package weft_test holds the architecture: which package may import which and why, which packages are pure, and the
// house rules that a compiler does not know. It has tables only; arch_check_test.go reads the source and applies them.
// It is not a style check: .golangci.yml is.
//
// A failing row is either a mistake in the code or a decision that has changed. In the second case change the row and
// its reason here, in the same commit, so that a reviewer sees it.
package weft_test

import (
	"os"
	"testing"
)

// module is the path in go.mod. All patterns below are relative to it: "a" is that package alone, "a/..." is it and
// everything below.
const module = "github.com/weft-sdn/weft"

// layers says which of the module's own packages each folder may import, in tests too. The first row that matches a
// package holds; a package that no row matches may not exist.
var layers = []layer{
	{"proto/...", []string{"proto/..."}, "the contract between processes rests on nothing of ours"},
	{"ipam/...", []string{"ipam/...", "proto/..."}, "allocation appends to transactions; it knows neither who asks nor who programs"},
	{"segments/...", []string{"segments/...", "ipam/space", "proto/..."}, "allocation appends to transactions; it knows neither who asks nor who programs"},
	{"scheduler/...", []string{"scheduler/...", "proto/..."}, "a plan over a snapshot: it knows neither the API nor the node"},
	{"agent/...", []string{"agent/...", "proto/..."}, "agents derive from what is stored; they work with every controller down"},
	{"controller/...", []string{"controller/...", "ipam/...", "segments/...", "scheduler/...", "proto/..."}, "controllers never project onto a host"},
	{"cmd/...", []string{"..."}, "binaries put the parts together"},
	{"e2e/...", []string{"..."}, "scenarios look at everything"},
	{"deploy/...", nil, "data, and at most its own tests"},
	{"docs/...", nil, "data, and at most its own tests"},
	{".", nil, "the root holds this test alone"},
}

// pure lists the packages that plan and describe: same arguments, same result, no effect. They import no module package
// outside this list but generated messages, since purity is transitive. Of a package that is not pure, a row may use the
// names that stand for values. Tests of a pure package may do as they like.
var pure = []pureRow{
	{dir: "ipam/...", why: "allocation is proven by property tests over values", uses: macs},
	{dir: "segments/...", why: "allocation is proven by property tests over values"},
	{dir: "scheduler/...", why: "a placement is explained by its inputs alone"},
	{dir: "proto/keys", why: "a key is a function of ids"},
	{dir: "proto/model", why: "validation and defaults are a function of the object", uses: macs},
	{dir: "proto/txn", why: "a transaction is a value until package store commits it"},
	{dir: "agent/desired", why: "what a node should have is data", uses: macs},
	{dir: "agent/view", why: "what a node knows is data", uses: changes},
	{dir: "agent/plan", why: "golden files hold the planner", uses: macs},
	{dir: "agent/ha", why: "who forwards is proven by a model over values"},
	{dir: "agent/flow", why: "flows are values that print as text", uses: macs},
	{dir: "agent/hybrid", why: "which packets pass is proven by a model over values"},
	{dir: "agent/metadata/guest", why: "what a VM is told is a function of what it is", uses: macsAndMasks},
	{dir: "agent/dhcpconf", why: "dnsmasq's files are a function of the network", uses: macsAndMasks},
}

// Values of packages that are not pure.
var (
	macs         = names{"net": {"HardwareAddr", "ParseMAC"}}
	macsAndMasks = names{"net": {"HardwareAddr", "ParseMAC", "IP", "IPMask", "CIDRMask"}}
	changes      = names{"net": {"HardwareAddr", "ParseMAC"}, module + "/proto/mirror": {"Batch", "Change", "Range", "Exactly", "Under"}}
)

// pureImports are the imports that no pure package has, and where to go instead. What matters is the first pattern
// that matches, unless the package's row in pure uses some names of it. net/netip is always allowed.
var pureImports = []ban{
	{"context", "pure packages do not wait; take values"},
	{"crypto/rand", "pure packages have no chance in them; take the random value as an argument"},
	{"github.com/coreos/go-iptables/...", "pure packages do no I/O; move it to a driver"},
	{"github.com/google/uuid", "pure packages have no chance in them; take the id as an argument"},
	{"github.com/ovn-org/libovsdb/...", "pure packages do no I/O; move it to a driver"},
	{"github.com/vishvananda/...", "pure packages do no I/O; move it to a driver"},
	{"go.etcd.io/...", "pure packages append to a proto/txn transaction; proto/store commits it"},
	{"golang.org/x/sys/...", "pure packages do no I/O; move it to a driver"},
	{"google.golang.org/grpc/...", "pure packages return errors of their own; the handler maps them to a status"},
	{"log/...", "pure packages return what there is to say"},
	{"net", "pure packages do no I/O; use net/netip, or name the values it needs in its row of the table pure"},
	{"net/http/...", "pure packages do no I/O; move it to a driver"},
	{"os/...", "pure packages do no I/O; move it to a driver"},
	{"runtime/...", "pure packages do not look at the process that runs them"},
	{"sync/...", "pure packages share nothing; one goroutine owns the value"},
	{"syscall", "pure packages do no I/O; move it to a driver"},
}

// pureCalls are the functions that no pure package uses though it may import their package. In math/rand and
// math/rand/v2 everything is banned but what makes a source of one's own (randAllowed).
var pureCalls = map[string][]string{
	"fmt":  {"Print", "Printf", "Println", "Scan", "Scanf", "Scanln"},
	"time": {"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"},
}

// randAllowed are the names of math/rand and math/rand/v2 that do not use the global source.
var randAllowed = []string{"New", "NewChaCha8", "NewPCG", "NewSource", "NewZipf", "Rand", "Source", "Source64", "PCG", "ChaCha8", "Zipf"}

// restricted says which packages alone may import what touches the host or the store, outside tests.
var restricted = []restriction{
	{"github.com/ovn-org/libovsdb/...", []string{"agent/ovs/...", "e2e/..."}, "one package hides the OVSDB library"},
	{"github.com/coreos/go-iptables/...", []string{"agent/iptables", "e2e/..."}, "one package owns the tables of a namespace"},
	{"github.com/vishvananda/...", append(drivers("agent/ovs/ovstest"), "e2e/..."), "only drivers touch the host"},
	{"os/exec", append(drivers("agent/ovs/ovstest"), "cmd/weft-lab/...", "e2e/...", "proto/store/storetest"), "only drivers start processes"},
	{"syscall", append(drivers("agent/ovs/ovstest"), "cmd/...", "e2e/...", "proto/store/storetest"), "only drivers make system calls"},
	{"golang.org/x/sys/...", append(drivers("agent/ovs/ovstest"), "cmd/...", "e2e/..."), "only drivers make system calls"},
	{"go.etcd.io/etcd/server/...", []string{"proto/store/storetest", "controller/...", "cmd/weft-controller/...", "e2e/..."}, "only a controller embeds etcd"},
	{"go.etcd.io/etcd/client/...", []string{"proto/store/...", "proto/mirror", "agent", "controller/...", "cmd/...", "e2e/..."}, "drivers and planners know nothing of the store"},
}

// drivers are the packages of the agent with effects on the host, and more.
func drivers(more ...string) []string {
	return append([]string{
		"agent/conntrack", "agent/dhcp", "agent/garp", "agent/hybrid/host", "agent/ipset", "agent/iptables", "agent/metadata", "agent/metadata/proxy", "agent/metadata/wire", "agent/neighbour", "agent/netns",
		"agent/openflow", "agent/ovs",
	}, more...)
}

// keyHome is the only package with literals of etcd keys.
const keyHome = "proto/keys"

// badNames are package names that say nothing about what is inside.
var badNames = []string{"base", "common", "helper", "helpers", "lib", "misc", "shared", "types", "util", "utils"}

// variables lists the package-level variables, as dir.name, that the check can't see to be constant but that nobody
// changes. Errors, regular expressions and unexported tables that their package never writes to need no row.
var variables = map[string]string{}

func TestArchitecture(t *testing.T) {
	pkgs, err := load(os.DirFS("."))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			for _, v := range r.check(pkgs) {
				t.Error(v)
			}
		})
	}
}
