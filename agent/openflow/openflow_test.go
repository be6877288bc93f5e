package openflow_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/weft-sdn/weft/agent/flow"
	"github.com/weft-sdn/weft/agent/openflow"
	"github.com/weft-sdn/weft/agent/ovs/ovstest"
)

const generation = 1

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func dial(t testing.TB, o *ovstest.OVS, bridge string, versions ...openflow.Version) *openflow.Conn {
	t.Helper()
	c, err := openflow.DialWait(testContext(t), openflow.Options{
		Socket: o.Mgmt(bridge), Versions: versions, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func startBridge(t testing.TB) (*ovstest.OVS, *openflow.Conn) {
	t.Helper()
	o := ovstest.Start(t)
	o.AddBridge("br0")
	return o, dial(t, o, "br0")
}

// flows gives cookies to flows, and fails the test if they are invalid or in each other's place.
func flows(t testing.TB, list ...flow.Flow) []flow.Flow {
	t.Helper()
	set := flow.NewSet(generation)
	for _, f := range list {
		if err := set.Add(f); err != nil {
			t.Fatal(err)
		}
	}
	return set.Flows()
}

func dumpText(o *ovstest.OVS, bridge string) []string {
	out := o.Ofctl("--no-stats", "--no-names", "dump-flows", bridge)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	slices.Sort(lines)
	return lines
}

func mustSync(t testing.TB, c *openflow.Conn, want []flow.Flow) openflow.Result {
	t.Helper()
	res, err := c.Sync(testContext(t), want)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func checkCounts(t *testing.T, res openflow.Result, added, deleted, conflicts int) {
	t.Helper()
	if res.Added != added || res.Deleted != deleted || len(res.Conflicts) != conflicts {
		t.Errorf("added %d, deleted %d, conflicts %v; want %d, %d, %d", res.Added, res.Deleted, res.Conflicts, added, deleted, conflicts)
	}
}

func everyMatch() []flow.Match {
	mac := flow.MAC{0xfa, 0x16, 0x3e, 1, 2, 3}
	addr := netip.MustParseAddr("10.1.2.3")
	out := []flow.Match{
		flow.NewMatch(),
		flow.NewMatch(flow.InPort(3)),
		flow.NewMatch(flow.InPort(flow.PortLocal)),
		flow.NewMatch(flow.InPort(3), flow.Untagged()),
		flow.NewMatch(flow.InPort(3), flow.VLAN(100)),
		flow.NewMatch(flow.VLAN(0)),
		flow.NewMatch(flow.Tagged()),
		flow.NewMatch(flow.EthType(0x88cc)),
		flow.NewMatch(flow.EthSrc(mac)),
		flow.NewMatch(flow.EthDst(mac)),
		flow.NewMatch(flow.Unicast()),
		flow.NewMatch(flow.Multicast()),
		flow.NewMatch(flow.EthDstMasked(mac, flow.MAC{0xff, 0xff, 0xff})),
		flow.NewMatch(flow.TunID(10)),
		flow.NewMatch(flow.TunID(0xffffffffffffffff)),
		flow.NewMatch(flow.Metadata(7)),
		flow.NewMatch(flow.MetadataMasked(0x700, 0xf00)),
		flow.NewMatch(flow.RegMasked(6, 0x10, 0xf0)),
		flow.NewMatch(flow.ARP(), flow.ARPOp(flow.ARPRequest), flow.ARPTPA(addr)),
		flow.NewMatch(flow.ARP(), flow.ARPOp(flow.ARPReply), flow.ARPSPA(addr)),
		flow.NewMatch(flow.ARP(), flow.ARPSHA(mac), flow.ARPTHA(flow.MAC{})),
		flow.NewMatch(flow.IPv4(), flow.IPv4Src(netip.MustParsePrefix("10.0.0.0/8"))),
		flow.NewMatch(flow.IPv4(), flow.IPv4Dst(netip.PrefixFrom(addr, 32))),
		flow.NewMatch(flow.IPv4(), flow.IPv4Dst(netip.MustParsePrefix("10.1.2.3/31"))),
		flow.NewMatch(flow.IPv4(), flow.IPProto(flow.ProtoICMP)),
		flow.NewMatch(flow.IPv4(), flow.IPProto(89)),
		flow.NewMatch(flow.IPv4(), flow.IPProto(flow.ProtoTCP), flow.TCPSrc(1024), flow.TCPDst(80)),
		flow.NewMatch(flow.IPv4(), flow.IPProto(flow.ProtoUDP), flow.UDPSrc(68), flow.UDPDst(67)),
		flow.NewMatch(flow.IPv4(), flow.InPort(1), flow.VLAN(5), flow.EthSrc(mac), flow.EthDst(mac), flow.Reg(0, 1), flow.TunID(1), flow.Metadata(1),
			flow.IPv4Src(netip.MustParsePrefix("10.0.0.0/8")), flow.IPv4Dst(netip.MustParsePrefix("11.0.0.0/8"))),
	}
	for n := range 16 {
		out = append(out, flow.NewMatch(flow.Reg(n, uint32(n)+1)))
	}
	return append(out, everyFilterMatch()...)
}

func everyFilterMatch() []flow.Match {
	mac := flow.MAC{0xfa, 0x16, 0x3e, 1, 2, 3}
	host, net := netip.MustParsePrefix("fd00:1:2:3:4:5:6:7/128"), netip.MustParsePrefix("fd00:1:2:3:8000::/65")
	v4, v6, proto := flow.IPv4(), flow.IPv6(), flow.IPProto
	icmp6 := func(kind uint8, terms ...flow.Term) flow.Match {
		return flow.NewMatch(append(terms, v6, proto(flow.ProtoICMPv6), flow.Type(flow.FieldICMPv6Type, kind))...)
	}
	return []flow.Match{
		flow.NewMatch(v6),
		flow.NewMatch(v6, flow.IPv6Src(host), flow.IPv6Dst(net)),
		flow.NewMatch(v6, flow.IPv6Dst(netip.MustParsePrefix("::/1"))),
		flow.NewMatch(v6, proto(47)),
		flow.NewMatch(v6, proto(flow.ProtoICMP)),
		flow.NewMatch(v4, proto(flow.ProtoICMPv6)),
		flow.NewMatch(v6, proto(flow.ProtoTCP), flow.PortDst(flow.FieldTCPDst, 0x1388, 0xfff8)),
		flow.NewMatch(v6, proto(flow.ProtoUDP), flow.PortDst(flow.FieldUDPDst, 53, 0xffff)),
		flow.NewMatch(v4, proto(flow.ProtoUDP), flow.PortDst(flow.FieldUDPDst, 0, 0xff00)),
		flow.NewMatch(v4, proto(flow.ProtoSCTP), flow.PortDst(flow.FieldSCTPDst, 36412, 0xffff)),
		flow.NewMatch(v6, proto(flow.ProtoSCTP), flow.PortDst(flow.FieldSCTPDst, 0x8000, 0x8000)),
		flow.NewMatch(v4, proto(flow.ProtoICMP), flow.Type(flow.FieldICMPType, 8), flow.Code(flow.FieldICMPCode, 0)),
		icmp6(128, flow.Code(flow.FieldICMPv6Code, 0)),
		icmp6(flow.NDSolicit, flow.NDTarget(host), flow.NDSLL(mac)),
		icmp6(flow.NDAdvert, flow.NDTarget(net), flow.NDTLL(flow.MAC{}), flow.EthSrc(mac)),
		flow.NewMatch(v4, flow.Whole()),
		flow.NewMatch(flow.Reg(4, 0)),
		flow.NewMatch(flow.RegMasked(4, 0, 1)),
		flow.NewMatch(v6, proto(flow.ProtoTCP), flow.LaterFragment()),
		flow.NewMatch(flow.CTState(0, flow.CTTracked)),
		flow.NewMatch(v4, flow.CTState(flow.CTTracked|flow.CTReply, flow.CTInvalid|flow.CTRelated), flow.RegMasked(4, 1, 1)),
		flow.NewMatch(flow.CTState(flow.CTTracked|flow.CTNew|flow.CTEstablished, 0)),
		flow.NewMatch(v4, flow.ConjID(0xfffffff1)),
	}
}

// actionFlow is a list of actions with the match that they need.
type actionFlow struct {
	match   flow.Match
	actions []flow.Action
}

func everyAction() []actionFlow {
	mac := flow.MAC{0xfa, 0x16, 0x3e, 1, 2, 3}
	addr := netip.MustParseAddr("10.1.2.3")
	tagged, arp := flow.NewMatch(flow.VLAN(9)), flow.NewMatch(flow.ARP())
	out := []actionFlow{
		{nil, nil},
		{nil, []flow.Action{flow.Output(5), flow.Output(6)}},
		{nil, []flow.Action{flow.Output(flow.PortLocal)}},
		{nil, []flow.Action{flow.BackToInPort()}},
		{nil, []flow.Action{flow.Normal()}},
		{nil, []flow.Action{flow.PushVLAN(), flow.SetVLAN(4095), flow.GotoTable(20)}},
		{tagged, []flow.Action{flow.PopVLAN(), flow.Output(1)}},
		{tagged, []flow.Action{flow.SetVLAN(17), flow.Normal()}},
		{nil, []flow.Action{flow.SetTunID(0x123456789), flow.Output(1)}},
		{nil, []flow.Action{flow.SetField(flow.FieldMetadata, 3), flow.GotoTable(30)}},
		{nil, []flow.Action{flow.SetEthSrc(mac), flow.SetEthDst(mac), flow.Output(1)}},
		{nil, []flow.Action{flow.Move(flow.FieldEthSrc, flow.FieldEthDst), flow.BackToInPort()}},
		{nil, []flow.Action{flow.SetMasked(flow.FieldReg(3), 0xab0, 0xff0), flow.SetMasked(flow.FieldTunID, 0x1, 0xf), flow.SetMasked(flow.FieldMetadata, 0x5000, 0xf0f000), flow.GotoTable(30)}},
		{nil, []flow.Action{flow.Resubmit(40), flow.Resubmit(41)}},
		{nil, []flow.Action{flow.GotoTable(40)}},
		{nil, []flow.Action{flow.Move(flow.FieldReg(0), flow.FieldReg(15)), flow.Move(flow.FieldTunID, flow.FieldMetadata), flow.GotoTable(50)}},
		{arp, []flow.Action{
			flow.Move(flow.FieldEthSrc, flow.FieldEthDst), flow.SetEthSrc(mac), flow.SetARPOp(flow.ARPReply),
			flow.Move(flow.FieldARPSHA, flow.FieldARPTHA), flow.Move(flow.FieldARPSPA, flow.FieldARPTPA),
			flow.SetARPSHA(mac), flow.SetARPSPA(addr), flow.BackToInPort(),
		}},
		{arp, []flow.Action{flow.SetARPTHA(mac), flow.SetARPTPA(addr), flow.Output(1)}},
	}
	for n := range 16 {
		out = append(out, actionFlow{nil, []flow.Action{flow.SetReg(n, 0xffffffff), flow.GotoTable(10)}})
	}
	ip, known := flow.NewMatch(flow.IPv4()), flow.NewMatch(flow.IPv6(), flow.CTState(flow.CTTracked, flow.CTInvalid))
	return append(out,
		actionFlow{ip, []flow.Action{flow.Track(flow.FieldReg(5), 81)}},
		actionFlow{ip, []flow.Action{flow.Commit(flow.FieldReg(15)), flow.OutputReg(7)}},
		actionFlow{known, []flow.Action{flow.CommitTrack(flow.FieldReg(0), 254)}},
		actionFlow{known, []flow.Action{flow.ResubmitCT(82), flow.Resubmit(1)}},
		actionFlow{nil, []flow.Action{flow.OutputReg(0)}},
		actionFlow{nil, []flow.Action{flow.SetReg(4, 0), flow.SetReg(5, 1), flow.GotoTable(30)}},
		actionFlow{nil, []flow.Action{flow.Conjunction(0xfffffff1, 1, 2)}},
		actionFlow{nil, []flow.Action{flow.Conjunction(1, 2, 2), flow.Conjunction(2, 64, 64)}},
	)
}

func everyFlow(t testing.TB) []flow.Flow {
	t.Helper()
	var list []flow.Flow
	for i, m := range everyMatch() {
		list = append(list, flow.Flow{Table: 1, Priority: uint16(100 + i), Match: m, Actions: []flow.Action{flow.Output(7)}})
	}
	for i, a := range everyAction() {
		list = append(list, flow.Flow{Table: 2, Priority: uint16(200 + i), Match: a.match, Actions: a.actions})
	}
	return flows(t, list...)
}

// The same flows go into one bridge as binary and into another as text through ovs-ofctl: OVS must then tell the same of both.
func TestBinaryAndTextMeanTheSameToOVS(t *testing.T) {
	for _, v := range []openflow.Version{openflow.Version14, openflow.Version15} {
		t.Run(v.String(), func(t *testing.T) {
			o := ovstest.Start(t)
			o.AddBridge("binary")
			o.AddBridge("text")
			list := everyFlow(t)

			c := dial(t, o, "binary", v)
			if c.Version() != v {
				t.Fatalf("speaks %s", c.Version())
			}
			checkCounts(t, mustSync(t, c, list), len(list), 0, 0)
			file := filepath.Join(t.TempDir(), "flows")
			if err := os.WriteFile(file, []byte(flow.Text(list, flow.TextOptions{Cookie: true})), 0o600); err != nil {
				t.Fatal(err)
			}
			o.Ofctl("add-flows", "text", file)

			if diff := cmp.Diff(dumpText(o, "text"), dumpText(o, "binary")); diff != "" {
				t.Errorf("text (-) and binary (+) differ:\n%s", diff)
			}
			checkCounts(t, mustSync(t, c, list), 0, 0, 0)
			checkCounts(t, mustSync(t, dial(t, o, "text", v), list), 0, 0, 0)
		})
	}
}

// What weft prints is what an operator sees in dump-flows, character by character.
func TestTextIsWhatDumpFlowsPrints(t *testing.T) {
	o, c := startBridge(t)
	list := everyFlow(t)
	mustSync(t, c, list)
	var want []string
	for _, f := range list {
		want = append(want, strings.ReplaceAll(f.Text(flow.TextOptions{Cookie: true}), "priority=32768,", ""))
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, dumpText(o, "br0")); diff != "" {
		t.Errorf("weft (-) and dump-flows (+) differ:\n%s", diff)
	}
}

func TestFragmentsAreMatchedByWhatTheyAreOnceAskedFor(t *testing.T) {
	for _, v := range []openflow.Version{openflow.Version14, openflow.Version15} {
		o := ovstest.Start(t)
		o.AddBridge("br0")
		c := dial(t, o, "br0", v)
		for range 2 {
			if err := c.MatchFragments(testContext(t)); err != nil {
				t.Fatal(err)
			}
		}
		if got := strings.TrimSpace(o.Ofctl("get-frags", "br0")); got != "nx-match" {
			t.Errorf("%s: fragments are handled as %q", v, got)
		}
	}
}

func TestZonesOfConntrackAreForgottenOneByOne(t *testing.T) {
	// From 10.0.0.1, UDP port 4000, to 10.0.0.2, port 53.
	const frame = "fa163e000002fa163e000001" + "0800" + "4500001c00000000401166cf0a0000010a000002" + "0fa000350008dc06"
	for _, v := range []openflow.Version{openflow.Version14, openflow.Version15} {
		o := ovstest.Start(t)
		o.AddBridge("br0")
		c := dial(t, o, "br0", v)
		for _, zone := range []string{"7", "8", "9"} {
			o.Ofctl("packet-out", "br0", "in_port=local packet="+frame+" actions=ct(commit,zone="+zone+")")
		}
		if err := c.ForgetZones(testContext(t), 7, 9); err != nil {
			t.Fatal(err)
		}
		left := o.Run("ovs-appctl", "--target="+o.Dir()+"/vswitchd.ctl", "dpctl/dump-conntrack")
		if strings.Count(left, "zone=") != 1 || !strings.Contains(left, "zone=8") {
			t.Errorf("%s: left: %s", v, left)
		}
	}
}

func drops(n int) []flow.Flow {
	set := flow.NewSet(generation)
	for i := range n {
		f := flow.Flow{
			Table: 3, Priority: 50, Match: flow.NewMatch(flow.VLAN(uint16(i%4094+1)), flow.EthDst(flow.MAC{0xfa, 0x16, 0x3e, byte(i >> 16), byte(i >> 8), byte(i)})),
			Actions: []flow.Action{flow.PopVLAN(), flow.SetTunID(uint64(i)), flow.Output(uint32(i%1000 + 1))},
		}
		if err := set.Add(f); err != nil {
			panic(err)
		}
	}
	return set.Flows()
}

func TestSyncWritesOnlyTheDifference(t *testing.T) {
	_, c := startBridge(t)
	all := drops(3000)
	checkCounts(t, mustSync(t, c, all[:2000]), 2000, 0, 0)
	checkCounts(t, mustSync(t, c, all[:2000]), 0, 0, 0)
	checkCounts(t, mustSync(t, c, all[500:]), 1000, 500, 0)
	checkCounts(t, mustSync(t, c, nil), 0, 2500, 0)
	entries, err := c.Dump(testContext(t))
	if err != nil || len(entries) != 0 {
		t.Errorf("left over: %v, %v", entries, err)
	}
}

func TestChangedActionsReplaceTheFlowInPlace(t *testing.T) {
	o, c := startBridge(t)
	f := flow.Flow{Priority: 9, Match: flow.NewMatch(flow.InPort(1)), Actions: []flow.Action{flow.Output(2)}}
	before := flows(t, f)
	f.Actions = []flow.Action{flow.Output(3)}
	after := flows(t, f)
	mustSync(t, c, before)

	checkCounts(t, mustSync(t, c, after), 1, 1, 0)
	if got := dumpText(o, "br0"); len(got) != 1 || !strings.Contains(got[0], "output:3") {
		t.Errorf("after Sync: %q", got)
	}
	if _, err := c.Apply(testContext(t), before, after); err != nil {
		t.Fatal(err)
	}
	if got := dumpText(o, "br0"); len(got) != 1 || !strings.Contains(got[0], "output:2") {
		t.Errorf("after Apply: %q", got)
	}
	checkCounts(t, mustSync(t, c, before), 0, 0, 0)
}

func TestAFlowThatSomebodyGaveOtherActionsIsFoundAndRepaired(t *testing.T) {
	o, c := startBridge(t)
	want := flows(t, flow.Flow{Priority: 9, Match: flow.NewMatch(flow.InPort(1)), Actions: []flow.Action{flow.Output(2)}},
		flow.Flow{Priority: 9, Match: flow.NewMatch(flow.InPort(2))})
	mustSync(t, c, want)
	o.Ofctl("-O", "OpenFlow15", "mod-flows", "br0", "in_port=1,actions=output:3") // keeps the cookie
	d, err := c.Diff(testContext(t), want)
	if err != nil || len(d.Missing) != 0 || len(d.Altered) != 1 || len(d.Surplus) != 0 || !flow.Equal(d.Altered[0], want[0]) {
		t.Errorf("difference %+v, %v; want the first flow altered", d, err)
	}
	checkCounts(t, mustSync(t, c, want), 1, 0, 0)
	if got := strings.Join(dumpText(o, "br0"), "\n"); !strings.Contains(got, "output:2") {
		t.Errorf("after Sync: %s", got)
	}
	checkCounts(t, mustSync(t, c, want), 0, 0, 0)
}

func TestDiffTellsWhatSyncWouldDoAndWritesNothing(t *testing.T) {
	o, c := startBridge(t)
	all := drops(3)
	mustSync(t, c, all[:2])
	before := dumpText(o, "br0")
	d, err := c.Diff(testContext(t), all[1:])
	if err != nil || len(d.Missing) != 1 || len(d.Altered) != 0 || len(d.Surplus) != 1 || d.Empty() {
		t.Errorf("difference %+v, %v; want one missing and one surplus", d, err)
	}
	if text := d.Surplus[0].Text(); !strings.Contains(text, fmt.Sprintf("cookie=%#x, table=", all[0].Cookie)) {
		t.Errorf("the surplus flow's text is %q", text)
	}
	if diff := cmp.Diff(before, dumpText(o, "br0")); diff != "" {
		t.Errorf("flows changed:\n%s", diff)
	}
}

func TestEveryFlowReadsBackAsItWasWritten(t *testing.T) {
	o := ovstest.Start(t)
	for _, v := range []openflow.Version{openflow.Version14, openflow.Version15} {
		bridge := fmt.Sprintf("br%d", v)
		o.AddBridge(bridge)
		c := dial(t, o, bridge, v)
		want := everyFlow(t)
		checkCounts(t, mustSync(t, c, want), len(want), 0, 0)
		if d, err := c.Diff(testContext(t), want); err != nil || !d.Empty() {
			t.Errorf("%s: %+v, %v", v, d, err)
		}
	}
}

func TestApplyOfAbsentDeletionSucceeds(t *testing.T) {
	_, c := startBridge(t)
	all := drops(2)
	if _, err := c.Apply(testContext(t), all[:1], all); err != nil {
		t.Fatal(err)
	}
	checkCounts(t, mustSync(t, c, nil), 0, 0, 0)
}

func TestStrangersFlowsStay(t *testing.T) {
	o, c := startBridge(t)
	o.Ofctl("add-flow", "br0", "cookie=0x1234,priority=7,in_port=1,actions=NORMAL")
	o.Ofctl("add-flow", "br0", "cookie=0,table=3,priority=50,dl_dst=01:00:00:00:00:00/01:00:00:00:00:00,actions=drop")
	o.Ofctl("add-flow", "br0", "cookie=0x5678,table=3,ip,nw_ttl=1,ct_state=+trk,actions=drop")
	before := dumpText(o, "br0")

	checkCounts(t, mustSync(t, c, drops(100)), 100, 0, 0)
	checkCounts(t, mustSync(t, c, nil), 0, 100, 0)
	if diff := cmp.Diff(before, dumpText(o, "br0")); diff != "" {
		t.Errorf("strangers' flows changed:\n%s", diff)
	}
}

func TestFlowInStrangersPlaceIsLeftOutAndReported(t *testing.T) {
	o, c := startBridge(t)
	for _, m := range everyMatch() {
		t.Run(m.String(), func(t *testing.T) {
			o.Ofctl("del-flows", "br0")
			f := flow.Flow{Priority: 7, Match: m, Actions: []flow.Action{flow.Output(2)}}
			mine := flows(t, f, flow.Flow{Priority: 8})
			f.Cookie, f.Actions = 0x1234, []flow.Action{flow.Normal()}
			o.Ofctl("add-flow", "br0", f.Text(flow.TextOptions{Cookie: true}))

			res := mustSync(t, c, mine)
			checkCounts(t, res, 1, 0, 1)
			if len(res.Conflicts) == 1 && res.Conflicts[0].StrangerCookie != 0x1234 {
				t.Errorf("conflict: %v", res.Conflicts[0])
			}
			res, err := c.Apply(testContext(t), mine, nil)
			if err != nil || len(res.Conflicts) != 1 {
				t.Errorf("Apply: %+v, %v", res, err)
			}
			o.Ofctl("del-flows", "br0", "cookie=0x1234/-1")
			checkCounts(t, mustSync(t, c, mine), 1, 0, 0)
		})
	}
}

func TestRefusedFlowLeavesTheBridgeUnchangedAndIsNamed(t *testing.T) {
	// Table 254 is OVS's own hidden one: adding there passes weft's checks and is refused at commit or before.
	bad := flow.Flow{Table: 254, Priority: 1, Actions: []flow.Action{flow.Output(1)}}.WithCookie(generation)
	// set_field on a VLAN that the match does not guarantee is refused when the message is taken in.
	early := flow.Flow{Table: 3, Priority: 1, Actions: []flow.Action{flow.SetVLAN(5), flow.Output(1)}}.WithCookie(generation)
	for name, refused := range map[string]flow.Flow{"at commit": bad, "when taken in": early} {
		t.Run(name, func(t *testing.T) {
			o, c := startBridge(t)
			good := drops(50)
			mustSync(t, c, good[:10])
			before := dumpText(o, "br0")

			_, err := c.Apply(testContext(t), append(slices.Clone(good[10:]), refused), good[:10])
			var bundle *openflow.BundleError
			var sw *openflow.SwitchError
			if !errors.As(err, &bundle) || !errors.As(err, &sw) || len(bundle.Refused) != 1 || bundle.Refused[0].Flow.Key() != refused.Key() {
				t.Fatalf("error %v, want one that names %v", err, refused)
			}
			if !strings.Contains(err.Error(), refused.String()[:20]) {
				t.Errorf("the error does not show the flow: %v", err)
			}
			if diff := cmp.Diff(before, dumpText(o, "br0")); diff != "" {
				t.Errorf("a refused bundle changed the bridge:\n%s", diff)
			}
			checkCounts(t, mustSync(t, c, good), 40, 0, 0)
		})
	}
}

func TestTooLongFlowIsNamedAndNothingIsSent(t *testing.T) {
	_, c := startBridge(t)
	huge := flow.Flow{Priority: 5}
	for i := range 5000 {
		huge.Actions = append(huge.Actions, flow.Output(uint32(i+1)))
	}
	_, err := c.Apply(testContext(t), flows(t, huge), nil)
	var refused *openflow.FlowError
	if !errors.As(err, &refused) {
		t.Fatalf("error: %v", err)
	}
	checkCounts(t, mustSync(t, c, drops(1)), 1, 0, 0)
}

func TestFlowsWithoutWeftsCookieAreRefused(t *testing.T) {
	_, c := startBridge(t)
	if _, err := c.Sync(testContext(t), []flow.Flow{{Cookie: 5}}); err == nil {
		t.Error("Sync took a flow with a stranger's cookie")
	}
	if _, err := c.Apply(testContext(t), nil, []flow.Flow{{Cookie: 5}}); err == nil {
		t.Error("Apply took a flow with a stranger's cookie")
	}
}

func TestRestartOfVswitchdIsSeenAndRepaired(t *testing.T) {
	o, c := startBridge(t)
	list := drops(100)
	mustSync(t, c, list)
	o.KillVswitchd()
	select {
	case <-c.Done():
	case <-testContext(t).Done():
		t.Fatal("the loss of the connection was not noticed")
	}
	if err := c.Err(); err == nil {
		t.Error("no reason given")
	}
	if _, err := c.Sync(testContext(t), list); err == nil {
		t.Error("Sync succeeded on a dead connection")
	}
	_, err := openflow.Dial(testContext(t), openflow.Options{Socket: o.Mgmt("br0"), Logger: slog.New(slog.DiscardHandler)})
	if !openflow.NotYet(err) {
		t.Errorf("dialling a dead bridge: %v", err)
	}
	o.StartVswitchd()
	checkCounts(t, mustSync(t, dial(t, o, "br0"), list), 100, 0, 0)
}

func TestContextEndsAnOperationAndTheConnection(t *testing.T) {
	o, c := startBridge(t)
	o.PauseVswitchd()
	ctx, cancel := context.WithTimeout(testContext(t), 20*time.Millisecond)
	defer cancel()
	_, err := c.Sync(ctx, drops(1))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error: %v", err)
	}
	<-c.Done()
	o.ResumeVswitchd()
	checkCounts(t, mustSync(t, dial(t, o, "br0"), drops(1)), 1, 0, 0)
}

func TestDialWaitsForABridgeToAppear(t *testing.T) {
	o := ovstest.Start(t)
	got := make(chan error, 1)
	opts := openflow.Options{Socket: o.Mgmt("br1"), Logger: slog.New(slog.DiscardHandler)}
	go func() {
		c, err := openflow.DialWait(testContext(t), opts)
		if err == nil {
			err = c.Close()
		}
		got <- err
	}()
	o.AddBridge("br1")
	if err := <-got; err != nil {
		t.Error(err)
	}
}

func TestDialNamesMissingVersions(t *testing.T) {
	o := ovstest.Start(t)
	o.AddBridge("br0")
	o.Vsctl("set", "Bridge", "br0", "protocols=OpenFlow10,OpenFlow13")
	_, err := openflow.Dial(testContext(t), openflow.Options{Socket: o.Mgmt("br0"), Logger: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "protocols") {
		t.Errorf("error: %v", err)
	}
}

func TestOperationsFromManyGoroutines(t *testing.T) {
	_, c := startBridge(t)
	all := drops(400)
	errs := make(chan error, 8)
	for g := range 8 {
		go func() {
			for i := range 50 {
				if _, err := c.Apply(testContext(t), all[g*50+i:g*50+i+1], nil); err != nil {
					errs <- err
					return
				}
			}
			errs <- c.Barrier(testContext(t))
		}()
	}
	for range 8 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	checkCounts(t, mustSync(t, c, all), 0, 0, 0)
}

func TestDumpCountsPackets(t *testing.T) {
	for _, v := range []openflow.Version{openflow.Version14, openflow.Version15} {
		t.Run(v.String(), func(t *testing.T) {
			o := ovstest.Start(t)
			o.AddBridge("br0")
			c := dial(t, o, "br0", v)
			mustSync(t, c, flows(t, flow.Flow{Priority: 3}))
			o.Ofctl("packet-out", "br0", "in_port=LOCAL,packet="+strings.Repeat("00", 60)+",actions=resubmit(,0)")
			entries, err := c.Dump(testContext(t))
			if err != nil || len(entries) != 1 {
				t.Fatalf("%v, %v", entries, err)
			}
			if e := entries[0]; e.Packets != 1 || e.Priority != 3 || e.Table != 0 || !e.Owned() {
				t.Errorf("entry %+v", e)
			}
		})
	}
}

func BenchmarkApplyOneFlow(b *testing.B) {
	_, c := startBridge(b)
	all := drops(10000)
	mustSync(b, c, all[:9999])
	ctx := context.Background()
	for b.Loop() {
		if _, err := c.Apply(ctx, all[9999:], nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSync(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		all := drops(n)
		b.Run(fmt.Sprintf("add-%d", n), func(b *testing.B) {
			_, c := startBridge(b)
			for b.Loop() {
				mustSync(b, c, all)
				b.StopTimer()
				mustSync(b, c, nil)
				b.StartTimer()
			}
		})
		b.Run(fmt.Sprintf("nothing-to-do-%d", n), func(b *testing.B) {
			_, c := startBridge(b)
			mustSync(b, c, all)
			for b.Loop() {
				mustSync(b, c, all)
			}
		})
	}
}

// An upgraded agent whose layout is another gives every flow another cookie: all are replaced, those that stay what they were
// in their places, in one bundle, so that no packet meets a gap.
func TestAnotherGenerationReplacesEveryFlowInOneBundle(t *testing.T) {
	o, c := startBridge(t)
	before := everyFlow(t)
	mustSync(t, c, before)
	set := flow.NewSet(generation + 1)
	for _, f := range before[1:] { // one is no longer in the layout
		if err := set.Add(f); err != nil {
			t.Fatal(err)
		}
	}
	want := set.Flows()
	checkCounts(t, mustSync(t, c, want), len(want), len(before), 0)
	if d, err := c.Diff(testContext(t), want); err != nil || !d.Empty() {
		t.Errorf("afterwards: %+v, %v", d, err)
	}
	if got := len(dumpText(o, "br0")); got != len(want) {
		t.Errorf("%d flows, want %d", got, len(want))
	}
	checkCounts(t, mustSync(t, c, want), 0, 0, 0)
}
