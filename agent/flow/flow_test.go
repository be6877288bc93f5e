package flow_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/weft-sdn/weft/agent/flow"
)

func TestTextIsStable(t *testing.T) {
	mac := flow.MAC{0xfa, 0x16, 0x3e, 1, 2, 3}
	names := func(port uint32) string { return map[uint32]string{3: "int-br-ex"}[port] }
	for want, f := range map[string]flow.Flow{
		"table=0, priority=0 actions=drop": {},
		"table=0, priority=100,in_port=\"int-br-ex\",vlan_tci=0x0000/0x1fff actions=push_vlan:0x8100,set_field:4101->vlan_vid,goto_table:10": {
			Priority: 100, Match: flow.NewMatch(flow.Untagged(), flow.InPort(3)), Actions: []flow.Action{flow.PushVLAN(), flow.SetVLAN(5), flow.GotoTable(10)},
		},
		"table=4, priority=1,tun_id=0xa,in_port=9 actions=output:\"int-br-ex\",output:9,IN_PORT,NORMAL": {
			Table: 4, Priority: 1, Match: flow.NewMatch(flow.InPort(9), flow.TunID(10)), Actions: []flow.Action{flow.Output(3), flow.Output(9), flow.BackToInPort(), flow.Normal()},
		},
		"table=21, priority=1,arp,dl_vlan=5,arp_tpa=10.0.0.1,arp_op=1 actions=move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],set_field:fa:16:3e:01:02:03->eth_src,resubmit(,7)": {
			Table: 21, Priority: 1,
			Match:   flow.NewMatch(flow.ARPTPA(netip.MustParseAddr("10.0.0.1")), flow.VLAN(5), flow.ARPOp(flow.ARPRequest), flow.ARP()),
			Actions: []flow.Action{flow.Move(flow.FieldEthSrc, flow.FieldEthDst), flow.SetEthSrc(mac), flow.Resubmit(7)},
		},
		"table=0, priority=5,udp,reg0=0x1/0xf,dl_dst=01:00:00:00:00:00/01:00:00:00:00:00,nw_src=10.0.0.0/8,tp_dst=67 actions=set_field:0x10/0xf0->reg1,output:1": {
			Priority: 5,
			Match: flow.NewMatch(flow.IPv4(), flow.IPProto(flow.ProtoUDP), flow.UDPDst(67), flow.Multicast(), flow.RegMasked(0, 0xff1, 0xf),
				flow.IPv4Src(netip.MustParsePrefix("10.9.9.9/8"))),
			Actions: []flow.Action{flow.SetMasked(flow.FieldReg(1), 0x10, 0xf0), flow.Output(1)},
		},
	} {
		if err := f.Validate(); err != nil {
			t.Error(err)
		}
		if got := f.Text(flow.TextOptions{PortName: names}); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestInvalidFlowsAreRefusedWithAReason(t *testing.T) {
	v6 := netip.MustParseAddr("::1")
	m := func(terms ...flow.Term) flow.Flow { return flow.Flow{Match: flow.NewMatch(terms...)} }
	a := func(actions ...flow.Action) flow.Flow { return flow.Flow{Table: 5, Actions: actions} }
	for name, c := range map[string]struct {
		flow flow.Flow
		want string
	}{
		"twice the same field":    {m(flow.InPort(1), flow.InPort(2)), "in_port is given twice"},
		"IPv6 in an IPv4 field":   {m(flow.ARP(), flow.ARPSPA(v6)), "no known field"},
		"IPv6 prefix":             {m(flow.IPv4(), flow.IPv4Src(netip.PrefixFrom(v6, 8))), "no known field"},
		"invalid prefix":          {m(flow.IPv4(), flow.IPv4Src(netip.Prefix{})), "no known field"},
		"match on everything":     {m(flow.IPv4(), flow.IPv4Dst(netip.MustParsePrefix("0.0.0.0/0"))), "leave the term out"},
		"register 16":             {m(flow.Reg(16, 1)), "no known field"},
		"VLAN 4096":               {m(flow.VLAN(4096)), "no known field"},
		"ARP without ethertype":   {m(flow.ARPOp(1)), "needs dl_type=0x806"},
		"ARP in IPv4":             {m(flow.IPv4(), flow.ARPOp(1)), "needs dl_type=0x806"},
		"port without protocol":   {m(flow.IPv4(), flow.TCPDst(80)), "needs nw_proto=0x6"},
		"masked port":             {m(flow.Term{Field: flow.FieldInPort, Mask: flow.Low(1)}), "cannot be masked"},
		"value outside its mask":  {m(flow.Term{Field: flow.FieldMetadata, Value: flow.Low(3), Mask: flow.Low(1)}), "outside its mask"},
		"value too wide":          {m(flow.Term{Field: flow.FieldEthSrc, Value: flow.Low(1 << 48), Mask: flow.Low(1<<48 - 1)}), "wider than 48"},
		"table 255":               {flow.Flow{Table: 255}, "table 255"},
		"output to 0":             {a(flow.Output(0)), "not a port number"},
		"output to the any port":  {a(flow.Output(0xffffffff)), "not a port number"},
		"goto before the last":    {a(flow.GotoTable(7), flow.Output(1)), "must be the last"},
		"goto backwards":          {a(flow.GotoTable(5)), "later table"},
		"writing the ingress":     {a(flow.SetField(flow.FieldInPort, 1)), "cannot be written"},
		"move of unequal widths":  {a(flow.Move(flow.FieldEthSrc, flow.FieldReg(0))), "one width"},
		"set to a value too wide": {a(flow.SetField(flow.FieldARPOp, 1<<16)), "do not fit"},
		"set with an empty mask":  {a(flow.SetMasked(flow.FieldReg(0), 0, 0)), "do not fit"},
		"VLAN without present":    {a(flow.SetField(flow.FieldVLAN, 5)), "PopVLAN"},
		"IPv6 into an ARP field":  {a(flow.SetARPSPA(v6)), "no known kind"},
		"register -1":             {a(flow.SetReg(-1, 5)), "cannot be written"},
		"IPv4 in an IPv6 field":   {m(flow.IPv6(), flow.IPv6Src(netip.MustParsePrefix("10.0.0.0/8"))), "no known field"},
		"IPv6 in IPv4":            {m(flow.IPv4(), flow.IPv6Src(netip.PrefixFrom(v6, 128))), "needs dl_type=0x86dd"},
		"ICMPv6's type in ICMP":   {m(flow.IPv4(), flow.IPProto(flow.ProtoICMP), flow.Type(flow.FieldICMPv6Type, 1)), "needs dl_type=0x86dd"},
		"a target without ND":     {m(flow.IPv6(), flow.NDTarget(netip.PrefixFrom(v6, 128))), "needs icmp_type=0x87"},
		"fragments of anything":   {m(flow.Whole()), "needs dl_type=0x800"},
		"zone in no register":     {a(flow.Commit(flow.FieldVLAN)), "not a register"},
		"output to register 16":   {a(flow.OutputReg(16)), "not a register"},
		"a conjunction of one":    {a(flow.Conjunction(1, 1, 1)), "conjunction"},
		"dimension 0":             {a(flow.Conjunction(1, 0, 2)), "conjunction"},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.flow.Validate()
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q in it", err, c.want)
			}
			if flow.NewSet(1).Add(c.flow) == nil {
				t.Error("a set took it")
			}
		})
	}
}

func TestSetFindsTwoFlowsInOnePlace(t *testing.T) {
	s := flow.NewSet(3)
	f := flow.Flow{Table: 1, Priority: 2, Match: flow.NewMatch(flow.InPort(1), flow.VLAN(5)), Actions: []flow.Action{flow.Output(1)}}
	same := f
	same.Match = flow.NewMatch(flow.VLAN(5), flow.InPort(1))
	other := same
	other.Actions = []flow.Action{flow.Output(2)}
	if err := errors.Join(s.Add(f), s.Add(same)); err != nil {
		t.Errorf("the same flow twice: %v", err)
	}
	var conflict *flow.ConflictError
	if err := s.Add(other); !errors.As(err, &conflict) || !strings.Contains(err.Error(), "output:2") {
		t.Errorf("another flow in its place: %v", err)
	}
	if got := s.Flows(); len(got) != 1 || !flow.Equal(got[0], f) || !flow.Owned(got[0].Cookie) || flow.Generation(got[0].Cookie) != 3 {
		t.Errorf("set: %v", got)
	}
}

func TestCookieTellsOwnerGenerationAndContent(t *testing.T) {
	f := flow.Flow{Priority: 1}
	a, b := f.WithCookie(1).Cookie, f.WithCookie(2).Cookie
	if !flow.Owned(a) || flow.Generation(a) != 1 || flow.Generation(b) != 2 || a<<24 != b<<24 {
		t.Errorf("cookies %#x, %#x", a, b)
	}
	if flow.Owned(0) || flow.Owned(^uint64(0)) || flow.CookieMask == 0 || flow.Magic == 0xffff {
		t.Error("a stranger's cookie counts as weft's")
	}
	// Held as a number, because a change of it makes every running node write all flows again.
	if want := uint64(0x776501025fc246f1); a != want {
		t.Errorf("the cookie of a fixed flow is %#x, was %#x", a, want)
	}
}

// anyFlow draws small flows, so that equal ones come up.
func anyFlow(t *rapid.T) flow.Flow {
	terms := map[flow.Field]flow.Term{}
	for range rapid.IntRange(0, 3).Draw(t, "terms") {
		n := rapid.Uint16Range(1, 3).Draw(t, "value")
		for _, term := range []flow.Term{flow.InPort(uint32(n)), flow.VLAN(n), flow.TunID(uint64(n)), flow.Reg(int(n), uint32(n)), flow.RegMasked(int(n), 1, 1)} {
			if rapid.Bool().Draw(t, "take") {
				terms[term.Field] = term
			}
		}
	}
	f := flow.Flow{Table: rapid.Uint8Range(0, 1).Draw(t, "table"), Priority: rapid.Uint16Range(0, 2).Draw(t, "priority")}
	for _, term := range terms {
		f.Match = f.Match.With(term)
	}
	for range rapid.IntRange(0, 2).Draw(t, "actions") {
		f.Actions = append(f.Actions, rapid.SampledFrom([]flow.Action{
			flow.Output(1), flow.Output(2), flow.PopVLAN(), flow.SetTunID(1), flow.SetReg(1, 1), flow.SetMasked(flow.FieldReg(1), 1, 1), flow.Resubmit(9),
		}).Draw(t, "action"))
	}
	return f
}

func TestSumTextAndKeyAgreeOnWhatIsTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := anyFlow(t), anyFlow(t)
		same := flow.Equal(a, b)
		if (flow.Sum(a) == flow.Sum(b)) != same || (a.String() == b.String()) != same {
			t.Fatalf("equal: %t, but sums %x, %x and texts\n%s\n%s", same, flow.Sum(a), flow.Sum(b), a, b)
		}
		if (a.Key() == b.Key()) != (flow.Compare(a, b) == 0) {
			t.Fatalf("keys and order disagree on\n%s\n%s", a, b)
		}
	})
}

func TestDiffLeadsFromOneSetToTheOther(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string) []flow.Flow {
			s := flow.NewSet(1)
			for _, f := range rapid.SliceOfN(rapid.Custom(anyFlow), 0, 6).Draw(t, label) {
				var conflict *flow.ConflictError
				if err := s.Add(f); err != nil && !errors.As(err, &conflict) {
					t.Fatal(err)
				}
			}
			return s.Flows()
		}
		have, want := draw("have"), draw("want")
		adds, deletes := flow.Diff(have, want)
		// A bridge: additions replace by place, deletions then take only the exact flow.
		bridge := map[flow.Key]flow.Flow{}
		for _, f := range append(append([]flow.Flow{}, have...), adds...) {
			bridge[f.Key()] = f
		}
		for _, f := range deletes {
			if bridge[f.Key()].Cookie == f.Cookie {
				delete(bridge, f.Key())
			}
		}
		if len(bridge) != len(want) {
			t.Fatalf("%d flows, want %d", len(bridge), len(want))
		}
		for _, f := range want {
			if !flow.Equal(bridge[f.Key()], f) {
				t.Fatalf("missing %s", f)
			}
		}
	})
}

func TestParseMAC(t *testing.T) {
	if m, err := flow.ParseMAC("fa:16:3E:01:02:0f"); err != nil || m.String() != "fa:16:3e:01:02:0f" {
		t.Errorf("%v, %v", m, err)
	}
	for _, s := range []string{"", "fa:16:3e:01:02", "fa:16:3e:01:02:0g", "fa:16:3e:01:02:03:04", "f:16:3e:01:02:003", "fa-16-3e-01-02-03", "+1:16:3e:01:02:03"} {
		if m, err := flow.ParseMAC(s); err == nil {
			t.Errorf("%q gives %v", s, m)
		}
	}
}

func BenchmarkWithCookie(b *testing.B) {
	f := flow.Flow{Match: flow.NewMatch(flow.InPort(1), flow.VLAN(5)), Actions: []flow.Action{flow.PopVLAN(), flow.Output(2)}}
	for b.Loop() {
		f = f.WithCookie(1)
	}
}
